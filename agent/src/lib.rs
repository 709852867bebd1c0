//! selvedge-agent
