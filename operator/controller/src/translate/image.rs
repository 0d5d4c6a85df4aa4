//! Images: which big ones a node holds, and which ones a pod needs, by names that can be compared.

use std::collections::BTreeMap;

use duosuan_scheduler::event::BIG_IMAGE;

use crate::lean;

/// Big images of one node that are told, the largest: as many as a kubelet lists in all unless it is told otherwise.
const IMAGES: usize = 50;

/// The big images that a node holds, by each of their names, with their bytes.
pub fn of_node(images: &[lean::ContainerImage]) -> BTreeMap<String, i64> {
    let mut big: Vec<_> = images.iter().filter(|image| image.size_bytes >= BIG_IMAGE).collect();
    big.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    let named = big.into_iter().take(IMAGES).flat_map(|image| {
        let names = image.names.iter();
        names.map(|name| (canonical(name), image.size_bytes))
    });
    named.collect()
}

/// The images of a pod's containers, in order and once each.
pub fn of_pod(spec: &lean::PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let named = containers.filter_map(|c| c.image.as_deref().filter(|image| !image.is_empty()));
    let mut names: Vec<String> = named.map(canonical).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The name as a container runtime writes it: with its registry, and with a digest, else a tag. People leave both out.
fn canonical(name: &str) -> String {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let library = if registry == "docker.io" && !path.contains('/') {
        "library/"
    } else {
        ""
    };
    let tag_at = |path: &str| path.rfind(':').filter(|at| !path[*at..].contains('/'));
    match path.split_once('@') {
        // Where there is a digest, a tag says nothing.
        Some((path, digest)) => {
            let bare = tag_at(path).and_then(|at| path.get(..at)).unwrap_or(path);
            [registry, "/", library, bare, "@", digest].concat()
        }
        None if tag_at(path).is_some() => [registry, "/", library, path].concat(),
        None => [registry, "/", library, path, ":latest"].concat(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_written_out() {
        for (name, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("registry:5000/app", "registry:5000/app:latest"),
            ("localhost/app:x", "localhost/app:x"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("a.io/b/c@sha256:0a", "a.io/b/c@sha256:0a"),
            ("a.io/b/c:v1@sha256:0a", "a.io/b/c@sha256:0a"),
        ] {
            assert_eq!(canonical(name), full);
        }
    }

    #[test]
    fn a_node_tells_of_its_big_images_by_all_their_names_and_of_fifty_at_most() {
        let status: lean::NodeStatus = serde_json::from_value(json!({"images": [
            {"names": ["llm@sha256:0a", "llm:7b"], "sizeBytes": 9_i64 << 30},
            {"names": ["small:1"], "sizeBytes": BIG_IMAGE - 1},
            {"names": null, "sizeBytes": 9_i64 << 30},
        ]}))
        .unwrap();
        let names = ["docker.io/library/llm:7b", "docker.io/library/llm@sha256:0a"];
        let expected = names.map(|name| (name.to_owned(), 9 << 30));
        assert_eq!(of_node(&status.images), BTreeMap::from(expected));
        let many = (0..60_i64).map(|i| json!({"names": [format!("i:{i}")], "sizeBytes": (2_i64 << 30) + i}));
        let status = json!({"images": many.collect::<Vec<_>>()});
        let status: lean::NodeStatus = serde_json::from_value(status).unwrap();
        let told = of_node(&status.images);
        assert_eq!(told.len(), 50);
        assert!(!told.contains_key("docker.io/library/i:9") && told.contains_key("docker.io/library/i:10"));
    }

    #[test]
    fn a_pod_needs_the_images_of_all_its_containers() {
        let spec: lean::PodSpec = serde_json::from_value(json!({
            "initContainers": [{"image": "setup"}],
            "containers": [{"image": "llm:7b"}, {"image": "docker.io/library/llm:7b"}, {}],
        }))
        .unwrap();
        assert_eq!(
            of_pod(&spec),
            ["docker.io/library/llm:7b", "docker.io/library/setup:latest"]
        );
    }
}
