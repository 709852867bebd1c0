//! selvedge-controllers
