//! The `go` command and what is built with it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::{Error, tail};

/// The Go module, carried in the binary, so that an installed `duosuan` needs no checkout.
pub(crate) const SOURCES: [(&str, &str); 6] = [
    ("go.mod", include_str!("../go.mod")),
    ("go.sum", include_str!("../go.sum")),
    ("controlplane/main.go", include_str!("../controlplane/main.go")),
    ("kubelet/main.go", include_str!("../kubelet/main.go")),
    ("kubectl/main.go", include_str!("../kubectl/main.go")),
    ("oracle/main.go", include_str!("../oracle/main.go")),
];

/// A binary of the Go module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok in one.
    ControlPlane,
    /// The kubelet.
    Kubelet,
    /// kubectl.
    Kubectl,
    /// helm.
    Helm,
    /// kube-scheduler's own filters, asked about a JSON snapshot a line; see its head for the format.
    Oracle,
}

impl Tool {
    /// Name of the binary.
    pub fn name(self) -> &'static str {
        match self {
            Tool::ControlPlane => "controlplane",
            Tool::Kubelet => "kubelet",
            Tool::Kubectl => "kubectl",
            Tool::Helm => "helm",
            Tool::Oracle => "oracle",
        }
    }

    /// Its Go package, as the `go` command takes it in the module's directory.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Tool::ControlPlane => "./controlplane",
            Tool::Kubelet => "./kubelet",
            Tool::Kubectl => "./kubectl",
            // A `tool` line of go.mod keeps it required.
            Tool::Helm => "helm.sh/helm/v3/cmd/helm",
            Tool::Oracle => "./oracle",
        }
    }

    /// The files that it is made of besides modules: the module's own two and those of its package. A change of one
    /// tool builds no other anew.
    pub(crate) fn sources(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let package = self.package().trim_start_matches("./");
        SOURCES
            .into_iter()
            .filter(move |(file, _)| file.split_once('/').is_none_or(|(folder, _)| folder == package))
    }
}

/// The first word after `key` on a line of go.mod that starts with it.
fn go_mod_word(key: &str) -> &'static str {
    let (_, go_mod) = SOURCES[0];
    go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix(key)?.split_whitespace().next())
        .unwrap_or_default()
}

/// Version of Kubernetes that is built, as `v1.37.2`: what go.mod requires.
pub fn kubernetes_version() -> &'static str {
    go_mod_word("k8s.io/kubernetes ")
}

/// Linker flags: strip, and tell the components their version; without it kubectl cannot parse what the server says.
pub(crate) fn linker_flags() -> String {
    let version = kubernetes_version();
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let package = "k8s.io/component-base/version";
    format!("-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
}

/// A `go` command new enough for the module.
#[derive(Debug)]
pub(crate) struct Go {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

impl Go {
    /// Looks through `search`, a PATH.
    pub(crate) fn find(search: Option<&OsStr>, tool: Tool) -> Result<Go, Error> {
        let wanted = go_mod_word("go ").to_owned();
        let missing = || Error::GoMissing {
            wanted: wanted.clone(),
            tool: tool.name(),
        };
        let path = std::env::split_paths(search.ok_or_else(missing)?)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join("go"))
            .find(|file| file.is_file())
            .ok_or_else(missing)?;
        // GOTOOLCHAIN=local: say what is too old instead of downloading another toolchain behind the user's back.
        let output = Command::new(&path)
            .args(["env", "GOVERSION"])
            .env("GOTOOLCHAIN", "local")
            .current_dir("/")
            .output()
            .map_err(Error::io("run", &path))?;
        let version = String::from_utf8_lossy(&output.stdout)
            .trim()
            .trim_start_matches("go")
            .to_owned();
        if !output.status.success() || version.is_empty() {
            let tail = tail(&String::from_utf8_lossy(&output.stderr), 3);
            return Err(Error::Build {
                tool: tool.name(),
                tail: format!("{} env GOVERSION: {tail}", path.display()),
            });
        }
        if numbers(&version) < numbers(&wanted) {
            return Err(Error::GoTooOld {
                path,
                found: version,
                wanted,
                tool: tool.name(),
            });
        }
        Ok(Go { path, version })
    }

    /// A `go` command in the module's directory `source`.
    pub(crate) fn command(&self, source: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(source)
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly");
        command.env("GOWORK", "off");
        command
    }
}

/// `1.26.8` or `1.27rc1` as numbers that compare.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>())
        .map_while(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_version_is_the_one_that_go_mod_requires() {
        assert!(kubernetes_version().starts_with("v1."), "{}", kubernetes_version());
        let minor = kubernetes_version().split('.').nth(1).unwrap();
        assert!(linker_flags().ends_with(&format!("gitMajor=1 -X k8s.io/component-base/version.gitMinor={minor}")));
    }

    #[test]
    fn a_tool_is_made_of_the_module_and_its_own_package() {
        let files = |tool: Tool| tool.sources().map(|(file, _)| file).collect::<Vec<_>>();
        assert_eq!(files(Tool::Oracle), ["go.mod", "go.sum", "oracle/main.go"]);
        assert_eq!(files(Tool::Helm), ["go.mod", "go.sum"]);
    }

    #[test]
    fn without_go_the_error_says_what_to_install() {
        for search in [None, Some(OsStr::new("")), Some(OsStr::new("/nonexistent"))] {
            let error = Go::find(search, Tool::ControlPlane).unwrap_err().to_string();
            assert!(error.starts_with("go is not in PATH: install Go 1."), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn an_old_go_is_named_with_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let go = dir.path().join("go");
        std::fs::write(&go, "#!/bin/sh\necho go1.9.7\n").unwrap();
        std::fs::set_permissions(&go, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Go::find(Some(dir.path().as_os_str()), Tool::Kubectl)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is Go 1.9.7: install Go 1."), "{error}");
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.9.7") < numbers("1.26.0"));
        assert!(numbers("1.27rc1") > numbers("1.26.8"));
        assert!(numbers("1.26.0") == numbers("1.26.0"));
    }
}
