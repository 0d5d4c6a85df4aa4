//! What the tests share.

pub mod vm;
