//! Builds, starts and ends the embedded Kubernetes control plane.
