//! selvedge-webhook
