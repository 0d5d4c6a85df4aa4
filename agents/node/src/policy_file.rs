//! A policy from a file: for a node without an API server, and for cgroups outside pods.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail};
use duosuan_crds::{ColocationPolicySpec, LatencyObjective, Tier, policy::NamedGroup};
use duosuan_policy::{Policy, Resources};
use serde::Deserialize;

use crate::{
    selection::{Choice, translate},
    services::Target,
};

/// The contents of a policy file. A ColocationPolicy as `kubectl get -o yaml` prints it is one, too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyFile {
    /// As in a ColocationPolicy; `nodeSelector` is not looked at.
    #[serde(default)]
    pub spec: ColocationPolicySpec,
    /// Cgroups outside pods, by tier.
    #[serde(default)]
    pub groups: Vec<GroupRule>,
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<serde_json::Value>,
    #[serde(default, rename = "kind")]
    _kind: Option<serde_json::Value>,
    #[serde(default, rename = "metadata")]
    _metadata: Option<serde_json::Value>,
    #[serde(default, rename = "status")]
    _status: Option<serde_json::Value>,
}

/// A cgroup outside the pods that the file puts in a tier.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// Path below the cgroup root.
    pub path: String,
    /// Its tier.
    pub tier: Tier,
    /// The latency that the service in it promises; its metrics are read from the loopback address. An objective that is
    /// changed later holds only after a restart.
    #[serde(default)]
    pub latency: Option<LatencyObjective>,
}

impl GroupRule {
    /// The path as cgroups are known by: a slash at an end says nothing.
    fn group(&self) -> String {
        self.path.trim_matches('/').to_owned()
    }
}

/// A policy file that is read anew when it changes.
#[derive(Debug)]
pub struct PolicySource {
    path: PathBuf,
    /// What the node has.
    capacity: Resources,
    changed: Option<SystemTime>,
}

impl PolicySource {
    /// Reads the file for the first time.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is no policy, or asks for the impossible on a node of this capacity, with the fields.
    pub fn open(path: &Path, capacity: Resources) -> anyhow::Result<(Self, PolicyFile)> {
        let source = Self {
            path: path.to_owned(),
            capacity,
            changed: modified(path),
        };
        let file = read(path, capacity)?;
        Ok((source, file))
    }

    /// The policy, if the file changed since. A file that is broken now is refused as a whole, and said so.
    pub fn poll(&mut self) -> Option<Choice> {
        let changed = modified(&self.path);
        if changed == self.changed {
            return None;
        }
        self.changed = changed;
        match read(&self.path, self.capacity) {
            Ok(file) => Some(self.choice(&file)),
            Err(error) => {
                tracing::warn!("{error:#}; the policy before it holds");
                None
            }
        }
    }

    /// The policy as the agent follows it.
    pub fn choice(&self, file: &PolicyFile) -> Choice {
        let name = self.path.display().to_string();
        match policy(file, self.capacity) {
            Ok(policy) => Choice::Policy { name, policy },
            Err(problems) => Choice::Refused { name, problems },
        }
    }
}

/// The policy with the groups of the file and those of its `spec`, which are checked as one list.
fn policy(file: &PolicyFile, capacity: Resources) -> Result<Policy, Vec<String>> {
    let mut spec = file.spec.clone();
    spec.groups.extend(file.groups.iter().map(|rule| NamedGroup {
        path: rule.group(),
        tier: rule.tier,
    }));
    translate(&spec, capacity)
}

/// The services in the groups, by the path of their cgroup.
pub fn services(groups: &[GroupRule]) -> BTreeMap<String, Result<Target, String>> {
    let target = |rule: &GroupRule| {
        let objective = rule.latency.as_ref()?;
        Some((rule.group(), Target::new(objective, Ipv4Addr::LOCALHOST.into())))
    };
    groups.iter().filter_map(target).collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn read(path: &Path, capacity: Resources) -> anyhow::Result<PolicyFile> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading --policy {}", path.display()))?;
    let file: PolicyFile =
        serde_yaml::from_str(&text).with_context(|| format!("--policy {} is no policy", path.display()))?;
    for (group, target) in services(&file.groups) {
        if let Err(problem) = target {
            bail!("--policy {}: groups.latency of {group}: {problem}", path.display());
        }
    }
    let ignored = file.spec.not_acted_on();
    if !ignored.is_empty() {
        tracing::warn!(
            "--policy {}: nothing is done about {} yet",
            path.display(),
            ignored.join(", ")
        );
    }
    if let Err(problems) = policy(&file, capacity) {
        bail!(
            "--policy {} cannot be honoured: {}",
            path.display(),
            problems.join("; ")
        );
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NODE: Resources = Resources {
        cpu: 2000,
        memory: 1 << 30,
    };

    fn open(text: &str) -> anyhow::Result<(PolicySource, PolicyFile)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, text).unwrap();
        PolicySource::open(&path, NODE)
    }

    #[test]
    fn a_file_names_groups_by_tier() {
        let text = "spec: {guards: {cpu: {stallMilli: 50}}}\ngroups:\n- {path: online, tier: prod}\n- {path: b/c, tier: batch}\n";
        let (source, file) = open(text).unwrap();
        let rule = |path: &str, tier| GroupRule {
            path: path.to_owned(),
            tier,
            latency: None,
        };
        assert_eq!(file.groups, [rule("online", Tier::Prod), rule("b/c", Tier::Batch)]);
        let Choice::Policy { policy, .. } = source.choice(&file) else {
            unreachable!()
        };
        assert_eq!(policy.cpu.stall_milli, 50);
        let paths = |policy: &Policy| policy.groups.iter().map(|g| g.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&policy), ["online", "b/c"]);
        let (source, file) =
            open("spec: {groups: [{path: a, tier: mid}]}\ngroups: [{path: /online/, tier: prod}]").unwrap();
        let Choice::Policy { policy, .. } = source.choice(&file) else {
            unreachable!()
        };
        assert_eq!(paths(&policy), ["a", "online"]);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_the_field() {
        let error = |text: &str| format!("{:#}", open(text).unwrap_err());
        assert!(
            error("spec: {reclaim: {quantilePercent: 101}}").contains("reclaim.quantilePercent is 101: give 50 to 100")
        );
        // It was cut down to what the node has, without a word.
        assert!(
            error("spec: {guards: {cpu: {floor: 3}}}")
                .contains("guards.cpu.floor is 3000m: give at least 10m and no more")
        );
        assert!(error("groups: [{path: ../x, tier: prod}]").contains("groups.path is \"../x\""));
        assert!(error("groups: [{path: /, tier: prod}]").contains("groups.path is \"\""));
        let within = error("spec: {groups: [{path: a, tier: prod}]}\ngroups: [{path: a/b, tier: batch}]");
        assert!(within.contains("groups.path is \"a\" and \"a/b\""), "{within}");
        let within = error("groups: [{path: a/b/, tier: prod}, {path: /a, tier: batch}]");
        assert!(within.contains("groups.path is \"a\" and \"a/b\""), "{within}");
        assert!(error("group: []").contains("unknown field `group`"));
        assert!(error("groups: [{path: a, tier: gold}]").contains("unknown variant `gold`"));
        let late = error("groups: [{path: a, tier: prod, latency: {histogram: x, threshold: 1s, port: 0}}]");
        assert!(late.contains("groups.latency of a: port is 0"), "{late}");
    }

    #[test]
    fn a_change_is_taken_in_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        let put = |text: &str, at: u64| {
            let file = std::fs::File::create(&path).unwrap();
            std::fs::write(&path, text).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at))
                .unwrap();
        };
        put("spec: {}", 1);
        let (mut source, _) = PolicySource::open(&path, NODE).unwrap();
        assert_eq!(source.poll(), None);
        put("spec: {suspended: true}", 2);
        assert!(source.poll().unwrap().suspended());
        put("spec: [", 3);
        assert_eq!(source.poll(), None);
        put("spec: {guards: {cpu: {floor: 2001m}}}", 4);
        assert_eq!(source.poll(), None);
        put("spec: {guards: {cpu: {floor: 2}}}", 5);
        assert!(source.poll().is_some());
        put("groups: [{path: a, tier: batch}]", 6);
        let Some(Choice::Policy { policy, .. }) = source.poll() else {
            unreachable!()
        };
        assert_eq!(policy.groups.len(), 1);
    }
}
