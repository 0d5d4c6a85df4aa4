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

/// Looks for the pods' cgroups, and lists them only where the kernel's count of a folder's links says that some came or went.
///
/// One that went and one that came between two looks leave the count as it was: whoever finds one gone says so.
#[derive(Debug, Default)]
pub struct Finder {
    layout: Layout,
    listed: Vec<Listed>,
}

/// A folder as it was when it was listed.
#[derive(Debug)]
struct Listed {
    folder: Cgroup,
    links: u64,
}

impl Listed {
    fn of(folder: Cgroup) -> Result<Self, Error> {
        let links = folder.links()?;
        Ok(Self { folder, links })
    }

    fn is_as_it_was(&self) -> bool {
        // A folder that was removed has no links, and some file systems count none.
        self.links >= 2 && self.folder.links().is_ok_and(|links| links == self.links)
    }
}

impl Finder {
    /// The layout as it was found last.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Lists the folders at the next look whatever their links say.
    pub fn forget(&mut self) {
        self.listed.clear();
    }

    /// Looks for the cgroups; true if they were listed anew.
    ///
    /// # Errors
    ///
    /// If a folder that is there cannot be listed: then nobody knows what is missing.
    pub fn look(&mut self, root: &Cgroup) -> Result<bool, Error> {
        if !self.listed.is_empty() && self.listed.iter().all(Listed::is_as_it_was) {
            return Ok(false);
        }
        self.listed.clear();
        for place in PLACES {
            match root.child(place) {
                Ok(kubepods) => {
                    let mut listed = Vec::new();
                    self.layout = list(kubepods, place, &mut listed)?;
                    self.listed = listed;
                    return Ok(true);
                }
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        let nothing_before = self.layout == Layout::default();
        self.layout = Layout::default();
        Ok(!nothing_before)
    }
}

fn list(kubepods: Cgroup, place: &str, listed: &mut Vec<Listed>) -> Result<Layout, Error> {
    let mut layout = Layout::default();
    // The count of links is taken before the list: what comes in between is found at the next look.
    let kubepods = Listed::of(kubepods)?;
    for name in kubepods.folder.children()? {
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
        let pods = kubepods.folder.child(&name).and_then(Listed::of);
        let (class, children) = match pods.and_then(|class| class.folder.children().map(|c| (class, c))) {
            Ok(found) => found,
            Err(error) if error.is_gone() => continue,
            Err(error) => return Err(error),
        };
        listed.push(class);
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
    listed.push(kubepods);
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

    fn discover(root: &Cgroup) -> Result<Layout, Error> {
        let mut finder = Finder::default();
        finder.look(root)?;
        Ok(finder.layout)
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
    fn folders_are_listed_again_only_when_a_cgroup_came_or_went() {
        let (dir, root) = tree(&["kubepods/poda-1", "kubepods/burstable/podb-2", "kubepods/besteffort"]);
        let mut finder = Finder::default();
        assert!(finder.look(&root).unwrap());
        assert!(!finder.look(&root).unwrap());
        for (change, expected) in [
            (
                "kubepods/besteffort/podc-3",
                vec![("c-3", false), ("b-2", false), ("a-1", true)],
            ),
            (
                "kubepods/podd-4",
                vec![("c-3", false), ("b-2", false), ("a-1", true), ("d-4", true)],
            ),
        ] {
            std::fs::create_dir(dir.path().join(change)).unwrap();
            assert!(finder.look(&root).unwrap());
            assert_eq!(found(finder.layout()), expected);
            assert!(!finder.look(&root).unwrap());
        }
        std::fs::remove_dir_all(dir.path().join("kubepods/burstable")).unwrap();
        assert!(finder.look(&root).unwrap());
        assert_eq!(found(finder.layout()), [("c-3", false), ("a-1", true), ("d-4", true)]);
        std::fs::remove_dir_all(dir.path().join("kubepods")).unwrap();
        assert!(finder.look(&root).unwrap());
        assert_eq!(*finder.layout(), Layout::default());
        assert!(!finder.look(&root).unwrap());
    }

    #[test]
    fn whoever_saw_one_go_has_the_folders_listed_again() {
        let (dir, root) = tree(&["kubepods/poda-1"]);
        let mut finder = Finder::default();
        finder.look(&root).unwrap();
        std::fs::rename(dir.path().join("kubepods/poda-1"), dir.path().join("kubepods/podb-2")).unwrap();
        assert!(!finder.look(&root).unwrap(), "the links are as they were");
        finder.forget();
        assert!(finder.look(&root).unwrap());
        assert_eq!(found(finder.layout()), [("b-2", true)]);
    }

    #[test]
    fn a_node_without_a_kubelet_has_no_pods() {
        let (_dir, root) = tree(&["system.slice"]);
        assert_eq!(discover(&root).unwrap(), Layout::default());
    }
}
