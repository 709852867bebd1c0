//! selvedge-stories
