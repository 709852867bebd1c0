//! selvedge-hub
