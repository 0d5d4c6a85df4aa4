//! Where the kubelet put the pods: found out, not configured.

use duosuan_cgroup::{Cgroup, Error};

/// Where the kubelet's cgroups are looked for, below the root, the likelier first: the cgroupfs driver, the systemd
/// driver, and both under a kubelet that has a cgroup of its own (as in nodes that are containers).
const PLACES: [&str; 4] = [
    "kubepods",
    "kubepods.slice",
    "kubelet/kubepods",
    "kubelet.slice/kubelet-kubepods.slice",
];

/// The kubelet's cgroups at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The besteffort cgroup.
    pub besteffort: Option<String>,
    /// The burstable cgroup.
    pub burstable: Option<String>,
    /// Cgroups of pods, by path.
    pub pods: Vec<PodGroup>,
}

/// A pod's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodGroup {
    /// Path below the root.
    pub path: String,
    /// The pod's UID.
    pub uid: String,
    /// Right below kubepods: the pod's requests are its limits.
    pub guaranteed: bool,
}

/// Finds the pods' cgroups.
///
/// # Errors
///
/// If a folder that is there cannot be listed: then nobody knows what is missing.
pub fn discover(root: &Cgroup) -> Result<Layout, Error> {
    for place in PLACES {
        match root.child(place) {
            Ok(kubepods) => return list(&kubepods, place),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Layout::default())
}

fn list(kubepods: &Cgroup, place: &str) -> Result<Layout, Error> {
    let mut layout = Layout::default();
    for name in kubepods.children()? {
        let path = format!("{place}/{name}");
        if let Some(uid) = uid_of(&name) {
            layout.pods.push(PodGroup {
                path,
                uid,
                guaranteed: true,
            });
            continue;
        }
        let class = name.strip_suffix(".slice").unwrap_or(&name);
        let slot = match class.rsplit_once("kubepods-").map_or(class, |(_, class)| class) {
            "besteffort" => &mut layout.besteffort,
            "burstable" => &mut layout.burstable,
            _ => continue,
        };
        *slot = Some(path.clone());
        let children = match kubepods.child(&name).and_then(|class| class.children()) {
            Ok(children) => children,
            Err(error) if error.is_gone() => continue,
            Err(error) => return Err(error),
        };
        for pod in children {
            if let Some(uid) = uid_of(&pod) {
                layout.pods.push(PodGroup {
                    path: format!("{path}/{pod}"),
                    uid,
                    guaranteed: false,
                });
            }
        }
    }
    layout.pods.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(layout)
}

/// The UID in the name of a pod's cgroup: `pod1234-ab` or `kubepods-burstable-pod1234_ab.slice`.
fn uid_of(name: &str) -> Option<String> {
    if let Some(uid) = name.strip_prefix("pod") {
        return (!uid.is_empty() && !name.ends_with(".slice")).then(|| uid.to_owned());
    }
    let unit = name.strip_suffix(".slice")?;
    let (_, uid) = unit.rsplit_once("-pod")?;
    // systemd reads a dash as a level, so the kubelet writes an underscore for it.
    (!uid.is_empty()).then(|| uid.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn tree(paths: &[&str]) -> (tempfile::TempDir, Cgroup) {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let root = Cgroup::open(dir.path()).unwrap();
        (dir, root)
    }

    fn found(layout: &Layout) -> Vec<(&str, bool)> {
        layout.pods.iter().map(|p| (p.uid.as_str(), p.guaranteed)).collect()
    }

    #[test]
    fn the_cgroupfs_layout_is_found() {
        let (_dir, root) = tree(&[
            "kubepods/poda-1/container",
            "kubepods/besteffort/podb-2",
            "kubepods/burstable/podc-3",
            "system",
        ]);
        let layout = discover(&root).unwrap();
        assert_eq!(found(&layout), [("b-2", false), ("c-3", false), ("a-1", true)]);
        assert_eq!(layout.besteffort.as_deref(), Some("kubepods/besteffort"));
        assert_eq!(layout.pods[0].path, "kubepods/besteffort/podb-2");
    }

    #[test]
    fn the_systemd_layout_is_found() {
        let (_dir, root) = tree(&[
            "kubepods.slice/kubepods-poda_1.slice/cri-containerd-x.scope",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podb_2.slice",
            "kubepods.slice/kubepods-burstable.slice",
        ]);
        let layout = discover(&root).unwrap();
        assert_eq!(found(&layout), [("b-2", false), ("a-1", true)]);
        assert_eq!(
            layout.besteffort.as_deref(),
            Some("kubepods.slice/kubepods-besteffort.slice")
        );
        assert_eq!(
            layout.burstable.as_deref(),
            Some("kubepods.slice/kubepods-burstable.slice")
        );
    }

    #[test]
    fn a_kubelet_in_a_cgroup_of_its_own_is_found() {
        let (_dir, root) = tree(&[
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podb_2.slice",
        ]);
        let layout = discover(&root).unwrap();
        assert_eq!(found(&layout), [("b-2", false)]);
        assert!(layout.besteffort.is_some());
    }

    #[test]
    fn a_node_without_a_kubelet_has_no_pods() {
        let (_dir, root) = tree(&["system.slice"]);
        assert_eq!(discover(&root).unwrap(), Layout::default());
    }
}
