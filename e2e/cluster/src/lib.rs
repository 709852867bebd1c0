//! A real Kubernetes control plane and real edge hosts on one machine, from source, without Docker and
//! without a registry: what the demo runs on and what the tests test against.
//!
//! The one idea that carries the rest: **a host is one process**. `unshare` starts a small process 1 with
//! a network, mount, PID and UTS namespace of its own ([`host`]), and everything that runs on the host
//! runs inside them. So power off is one `SIGKILL` (the kernel ends every process of a PID namespace with
//! its process 1), and what a host had mounted, listened on, routed or filtered ends with it. There is
//! nothing to remember and nothing to undo, and a launcher that was itself killed finds its hosts again
//! by a mark in their environment.
//!
//! ```text
//!  this machine          fabric (a bridge)        control            edge-1 ...
//!  198.18.n.1 ───────────────┼──────────────── 198.18.n.2      198.18.n.10
//!                                              etcd, apiserver  containerd
//!                                              kubelet, ...     selvedge-agent
//! ```
//!
//! Comes in: a directory ([`Layout`], `.dev` for people, a temporary one for tests), the Go modules of
//! `tools/`. Goes out: `kubeconfig`, `bin/`, `logs/` in that directory, and [`EdgeHost`]s. All calls block;
//! in an async test, call the long ones ([`Cluster::up`], [`Cluster::down`]) from `spawn_blocking`.

pub mod cache;
pub mod cgroup;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod component;
pub mod containerd;
pub mod debian;
pub mod dns;
pub mod edge_host;
pub mod external;
pub mod fabric;
pub mod go;
pub mod host;
pub mod images;
pub mod kubeconfig;
pub mod layout;
pub mod modbus;
pub mod pki;
pub mod preflight;
pub mod process;
pub mod progress;
pub mod python;
pub mod release;
pub mod snapshot;
pub mod state;
pub mod teardown;
pub mod tools;

pub use cluster::{Cluster, ClusterError, Mode, UpOptions};
pub use edge_host::EdgeHost;
pub use layout::Layout;
pub use release::Release;
