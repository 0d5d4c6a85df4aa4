//! A real Kubernetes control plane on loopback, built from upstream source and started as children of this process.
//!
//! [`build`] compiles one of the [`Tool`]s with the `go` command and keeps the result; [`ControlPlane::start`] runs etcd,
//! kube-apiserver and, on request, kube-controller-manager and kwok, and ends them when it is dropped.
//!
//! Guarantee: no child outlives this process, however it ends. Each child holds the reading end of a pipe whose writing
//! end only this process has; when that closes, the child exits. So a panic, Ctrl-C, SIGTERM and kill -9 all end it.

mod build;
mod certificates;
mod component;
mod controlplane;
mod error;
mod go;
mod instance;
mod ready;

pub use build::{Progress, build, build_until};
pub use controlplane::{ControlPlane, Options};
pub use error::Error;
pub use go::{Tool, kubernetes_version};
