//! The webhook's own certificate: made by whichever replica is first, shared by all in a Secret, rotated in
//! time, and published to the API server as the caBundle of the webhook's configuration.
//!
//! ```text
//! Secret selvedge-webhook-tls        ca.crt   CA certificates, newest first: the caBundle
//!                                    ca.key   key of the newest
//!                                    tls.crt  serving certificate
//!                                    tls.key  its key
//! ```
//!
//! `store` is the Secret's content and what time does to it (pure), `issue` makes keys and certificates,
//! `resolver` hands the newest one to new connections, `keep` is the loop over Secret and configuration.

mod issue;
mod keep;
mod resolver;
mod store;

pub use issue::IssueError;
pub use keep::{KeepError, Keeper};
pub use resolver::Resolver;

#[cfg(test)]
mod tests;
