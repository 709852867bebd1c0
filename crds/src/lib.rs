//! selvedge-crds
