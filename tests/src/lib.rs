//! What the tests share.

pub mod access;
pub mod binary;
pub mod cases;
pub mod chart;
pub mod cluster;
pub mod figures;
pub mod metrics;
pub mod vm;
