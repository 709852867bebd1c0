//! selvedge-testkit
