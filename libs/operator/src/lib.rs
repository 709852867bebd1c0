//! selvedge-operator
