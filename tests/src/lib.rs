//! What the tests share.

pub mod access;
pub mod cluster;
pub mod vm;
