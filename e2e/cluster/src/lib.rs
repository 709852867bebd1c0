//! selvedge-cluster
