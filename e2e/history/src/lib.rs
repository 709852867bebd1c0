//! Histories of state sync, and the one checker of its invariants (docs/concepts/sync.md).
//!
//! In: [`Event`]s, as a rig sees them: what is desired in the API, what agents answered, have in force and
//! applied, what was reported, written and answered. Out: [`Violation`]s, each with what proves it. The
//! simulation and the load rig record into the same [`Checker`], so that what is proved of the one is
//! measured of the other. No IO, no clock, no randomness: the same events give the same violations.
//!
//! ```
//! use selvedge_history::{Agent, Checker, Event, Invariant, InForce};
//! use selvedge_model::ContentHash;
//!
//! let mut checker = Checker::default();
//! let agent = Agent::of("shop-1");
//! let hash = ContentHash([7; 32]);
//! checker.observe(10, Event::InForce {
//!     agent,
//!     key: "Device/shop/boiler".into(),
//!     version: InForce { uid: "u".into(), source: 3, revision: "".into(), hash },
//! });
//! assert_eq!(checker.violations()[0].invariant, Invariant::I3, "nobody ever asked for it");
//! ```
//!
//! What a rig must record, and when:
//!
//! | Event | When |
//! |---|---|
//! | [`Event::Desired`] | before (or as) the API server accepts the change: nothing can be in force earlier |
//! | [`Event::Withdrawn`] | as the API server accepts the deletion, or the change that selects the node no more |
//! | [`Event::Vanished`] | as the API server deletes what goes with its CRD |
//! | [`Event::Upgraded`] | before the [`Event::Booted`] of an agent of another version |
//! | [`Event::Settled`] | all is at rest, and only versions change from now on |
//! | [`Event::Booted`] | an agent opened its ledger: what it found there |
//! | [`Event::Answered`] | an agent made an `Ack`, whether or not it gets away |
//! | [`Event::Kept`] | a session of a hub keeps more of something than ever before |
//! | [`Event::InForce`], [`Event::OutOfForce`] | after every step of an agent, and at its start, for what differs |
//! | [`Event::Reported`] | a report leaves the agent |
//! | [`Event::Applied`] | before the report that says so |
//! | [`Event::Status`] | the API server accepted a status write |
//! | [`Event::Verdict`] | a verdict arrives at the agent (or leaves the hub) |
//! | [`Event::Restored`] | the cluster was restored from a snapshot |
//! | [`Event::Rest`] | faults have stopped and time to settle has passed |
//! | [`Event::Lingers`] | with it, for a node whose status tells of something that passes |
//!
//! [`Checker::observe`] takes them as they come and keeps what is needed per key, not the history; a rig
//! that keeps the events itself can print those that a violation names by number.

mod check;
mod event;
mod violation;

pub use check::Checker;
pub use event::{Agent, Event, InForce, Name, Row, Verdict, Wanted};
pub use violation::{Invariant, Violation};
