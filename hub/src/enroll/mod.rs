//! Certificates: agents' first ones and those after them, and the hub's own. The CA key is elsewhere: all that is done here is to
//! file CertificateSigningRequests and to wait (identity rules 1 and 2).

pub mod csr;
pub mod join;
pub mod renew;
pub mod serving;
