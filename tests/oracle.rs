//! The first oracle: kube-scheduler's own filters, called in process by `operator/embedded/oracle`, against ours, on
//! random snapshots of clusters. For every node both say whether the pending pod fits, and not one difference is
//! accepted: each is a bug, of the translation or of the core.
//!
//! ```text
//! cargo test -p duosuan-tests --test oracle
//! cargo test -p duosuan-tests --test oracle -- --cases 1000000 --seed 7
//! ```
//!
//! `--cases` is how many snapshots are asked about, `--seed` the number of the first: snapshot `n` is the same in every
//! run. A failure prints its number and the snapshot without all that the difference does not need. Otherwise the arguments
//! are those of any other test: the part of a name, `--list`, `--exact`, `--skip`.
//!
//! What is not asked:
//!
//! - Resource claims: such pods are refused by the translation, not placed by guess.
//! - Volumes of kinds that are no CSI driver's (GCE, EBS, iSCSI and RBD disks, written into a pod or moved to a CSI driver):
//!   their limits are not counted, and it is not seen that two pods write to one.
//! - What CSIDriver, CSIStorageCapacity and VolumeAttachment objects say: they are not read.
//! - Two claims of one pod that are to get volumes of one class: each is looked at by itself, and that there are not enough for
//!   both is found when the pod has a place. Of equally large volumes kube-scheduler takes any, so that its own verdict is not
//!   always the same.
//!
//! What we mean differently on purpose, and is not generated:
//!
//! - A pod with `spec.nodeName` is bound, whoever wrote the name; kube-scheduler does not look at it either, its
//!   `NodeName` filter answers only for pods that something else hands to it.
//! - Amounts over 2^53 base units (9 PB) count as 2^53.
//! - A bound pod whose annotation `duosuan.io/gpus` names other devices than it requests holds the devices that it names.
//! - A claim to a volume whose status says that it is bound is so, also without the annotation that says so.
//! - Where the labels of a volume say that it is counts also before it is bound, and for ephemeral volumes; kube-scheduler looks
//!   at these labels only of volumes that the pod's own claims have.
//! - A pod on a node that is not there uses its claims: one for a single pod is not free. kube-scheduler forgets that pod.
//! - An ephemeral volume of a bound pod whose claim was not made for it counts; kube-scheduler then places nothing there.
//! - A claim that a pod names twice is one; kube-scheduler looks for two volumes while it has none.
//! - Objects that the API server does not admit (an operator that does not exist, amounts below zero): there the pod
//!   waits with the field's name as its reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]
#![allow(clippy::print_stdout, reason = "a test says what it asked")]

#[path = "oracle/ask.rs"]
mod ask;
#[path = "oracle/compare.rs"]
mod compare;
#[path = "oracle/generate.rs"]
mod generate;
#[path = "oracle/ours.rs"]
mod ours;
#[path = "oracle/random.rs"]
mod random;
#[path = "oracle/relations.rs"]
mod relations;
#[path = "oracle/resize.rs"]
mod resize;
#[path = "oracle/run.rs"]
mod run;
#[path = "oracle/shrink.rs"]
mod shrink;
#[path = "oracle/volumes.rs"]
mod volumes;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use ask::Oracle;
use compare::{Difference, differences};
use generate::snapshot;

/// Snapshots that are on their way at a time.
const BATCH: u64 = 256;

fn main() -> std::process::ExitCode {
    run::all(&[
        (
            "every_node_says_what_kube_scheduler_says",
            every_node_says_what_kube_scheduler_says,
        ),
        ("a_core_that_overlooks_something_is_caught", |_| {
            a_core_that_overlooks_something_is_caught()
        }),
        ("a_difference_is_shown_with_nothing_that_it_does_not_need", |_| {
            a_difference_is_shown_with_nothing_that_it_does_not_need();
        }),
        ("a_wrong_a_missing_and_a_surplus_verdict_are_each_found", |_| {
            compare::a_wrong_a_missing_and_a_surplus_verdict_are_each_found();
        }),
    ])
}

/// Asks both about each snapshot, the core about what `change` makes of it, and hands over each answer of the oracle
/// with the differences.
fn compare_all(
    oracle: &mut Oracle,
    seeds: std::ops::Range<u64>,
    change: &dyn Fn(&mut Value),
    each: &mut dyn FnMut(u64, &ask::Verdicts, Vec<Difference>),
) {
    let mut next = seeds.start;
    while next < seeds.end {
        let end = seeds.end.min(next.saturating_add(BATCH));
        let batch: Vec<u64> = (next..end).collect();
        next = end;
        let snapshots: Vec<Value> = batch.iter().map(|seed| snapshot(*seed)).collect();
        let theirs = oracle.ask(&snapshots);
        for ((seed, mut snapshot), theirs) in batch.into_iter().zip(snapshots).zip(theirs) {
            let theirs =
                theirs.unwrap_or_else(|e| panic!("snapshot {seed}: the oracle cannot judge it: {e}\n{snapshot}"));
            change(&mut snapshot);
            let ours = ours::verdicts(&snapshot).unwrap_or_else(|e| panic!("snapshot {seed}: {e}\n{snapshot}"));
            each(seed, &theirs, differences(&theirs, &ours));
        }
    }
}

/// Something that a core may overlook: its name, and what is changed in the snapshots that it sees.
type Overlooked = (&'static str, fn(&mut Value));

fn as_it_is(_: &mut Value) {}

fn every_node_says_what_kube_scheduler_says(asked: &run::Asked) {
    let (cases, first) = (asked.cases, asked.seed);
    let mut said: BTreeMap<String, u64> = BTreeMap::new();
    let mut oracle = Oracle::start();
    compare_all(
        &mut oracle,
        first..first.saturating_add(cases),
        &as_it_is,
        &mut |seed, theirs, differences| {
            for refusal in theirs.values() {
                *said
                    .entry(refusal.as_ref().map_or("fits".to_owned(), |r| r.plugin.clone()))
                    .or_default() += 1;
            }
            if let Some(difference) = differences.into_iter().next() {
                let smallest = shrink::smallest(&mut Oracle::start(), &snapshot(seed), &difference);
                let smallest = serde_json::to_string_pretty(&smallest).unwrap();
                panic!("--cases 1 --seed {seed}: {difference}\nthe smallest snapshot that shows it:\n{smallest}");
            }
        },
    );
    println!("{cases} snapshots from {first}: {said:?}");
    // What is asked must not become trivial: each filter refuses often, and many nodes take the pod.
    if cases >= 2000 {
        let filters = [
            "InterPodAffinity",
            "NodeAffinity",
            "NodePorts",
            "NodeResourcesFit",
            "NodeUnschedulable",
            "PodTopologySpread",
            "TaintToleration",
            "NodeVolumeLimits",
            "VolumeBinding",
            "VolumeRestrictions",
            "VolumeZone",
            "fits",
        ];
        for filter in filters {
            let times = said.get(filter).copied().unwrap_or_default();
            assert!(
                times * 100 >= cases,
                "{filter} was said {times} times in {cases} snapshots: {said:?}"
            );
        }
    }
}

/// The core is asked about a snapshot that differs a little: if the comparison were blind to a filter, nobody would
/// notice there.
fn a_core_that_overlooks_something_is_caught() {
    let overlook: [Overlooked; 34] = [
        ("taints", |s| each_node(s, |node| node["spec"]["taints"] = json!([]))),
        ("unschedulable nodes", |s| {
            each_node(s, |node| node["spec"]["unschedulable"] = json!(false))
        }),
        ("labels", |s| {
            each_node(s, |node| node["metadata"]["labels"] = json!({}))
        }),
        ("the node selector", |s| s["pod"]["spec"]["nodeSelector"] = json!({})),
        ("node affinity", |s| s["pod"]["spec"]["affinity"] = json!({})),
        ("tolerations", |s| s["pod"]["spec"]["tolerations"] = json!([])),
        ("init containers", |s| s["pod"]["spec"]["initContainers"] = json!([])),
        ("overhead", |s| s["pod"]["spec"]["overhead"] = json!({})),
        ("pod-level resources", |s| s["pod"]["spec"]["resources"] = json!({})),
        ("the limit of pods", |s| {
            each_node(s, |node| node["status"]["allocatable"]["pods"] = json!("110"))
        }),
        ("host ports that are held", |s| {
            each_pod(s, |pod| pod["spec"]["containers"][0]["ports"] = json!([]))
        }),
        ("that a pod has ended", |s| {
            each_pod(s, |pod| pod["status"]["phase"] = json!("Running"))
        }),
        ("what a node says of its containers", |s| {
            each_pod(s, |pod| {
                for field in [
                    "containerStatuses",
                    "initContainerStatuses",
                    "resources",
                    "allocatedResources",
                ] {
                    pod["status"][field] = Value::Null;
                }
            })
        }),
        ("that a pod will not be resized", |s| {
            each_pod(s, |pod| pod["status"]["conditions"] = json!([]))
        }),
        ("pod affinity", |s| {
            s["pod"]["spec"]["affinity"]["podAffinity"] = Value::Null
        }),
        ("pod anti-affinity", |s| {
            s["pod"]["spec"]["affinity"]["podAntiAffinity"] = Value::Null
        }),
        ("anti-affinity of pods that are there", |s| {
            each_pod(s, |pod| pod["spec"]["affinity"] = json!({}))
        }),
        ("topology spread", |s| {
            s["pod"]["spec"]["topologySpreadConstraints"] = json!([])
        }),
        ("labels of namespaces", |s| {
            let namespaces = s
                .as_object_mut()
                .unwrap()
                .entry("namespaces")
                .or_insert_with(|| json!([]));
            for namespace in namespaces.as_array_mut().unwrap() {
                namespace["metadata"]["labels"] = json!({});
            }
        }),
        ("that a pod is being deleted", |s| {
            each_pod(s, |pod| pod["metadata"]["deletionTimestamp"] = Value::Null)
        }),
        ("how many parts are wanted", |s| each_spread(s, "minDomains", json!(1))),
        ("the skew that is allowed", |s| each_spread(s, "maxSkew", json!(1))),
        ("label keys that have to match", |s| {
            each_spread(s, "matchLabelKeys", json!([]))
        }),
        ("whether nodes that the pod avoids count", |s| {
            each_spread(s, "nodeAffinityPolicy", json!("Honor"))
        }),
        ("whether tainted nodes count", |s| {
            each_spread(s, "nodeTaintsPolicy", json!("Ignore"))
        }),
        ("how much a node can attach", |s| s["csiNodes"] = json!([])),
        ("that pods share a volume", |s| {
            each_of(s, "persistentVolumes", |v| {
                v["spec"]["csi"]["volumeHandle"] = v["metadata"]["name"].clone()
            })
        }),
        ("where volumes can be used", |s| {
            each_of(s, "persistentVolumes", |v| v["spec"]["nodeAffinity"] = Value::Null)
        }),
        ("the zones of volumes", |s| {
            each_of(s, "persistentVolumes", |v| {
                let labels = v["metadata"]["labels"].as_object_mut();
                labels.into_iter().for_each(|l| l.retain(|key, _| key == "kind"));
            })
        }),
        ("where a class makes volumes", |s| {
            each_of(s, "storageClasses", |c| c["allowedTopologies"] = json!([]))
        }),
        ("that a claim is being deleted", |s| {
            each_of(s, "persistentVolumeClaims", |c| {
                c["metadata"]["deletionTimestamp"] = Value::Null
            })
        }),
        ("that a claim is for one pod alone", |s| {
            each_of(s, "persistentVolumeClaims", |c| {
                c["spec"]["accessModes"] = json!(["ReadWriteOnce"])
            })
        }),
        ("whom a claim was made for", |s| {
            let uid = s["pod"]["metadata"]["uid"].clone();
            each_of(s, "persistentVolumeClaims", |c| {
                c["metadata"]["ownerReferences"] = json!([{"uid": uid, "controller": true}])
            })
        }),
        ("how large volumes are", |s| {
            each_of(s, "persistentVolumes", |v| {
                v["spec"]["capacity"]["storage"] = json!("1Ti")
            })
        }),
    ];
    let mut oracle = Oracle::start();
    for (what, change) in overlook {
        let (mut found, mut asked) = (0, 0);
        while found == 0 {
            assert!(
                asked < 5000,
                "{asked} snapshots, and not one shows that {what} are overlooked"
            );
            compare_all(&mut oracle, asked..asked + BATCH, &change, &mut |_, _, differences| {
                found += differences.len();
            });
            asked += BATCH;
        }
        println!("{what}: {found} differences in {asked} snapshots");
    }
}

fn a_difference_is_shown_with_nothing_that_it_does_not_need() {
    let mut snapshot = snapshot(1);
    snapshot["nodes"] = json!([
        {"metadata": {"name": "other"}, "status": {"allocatable": {"cpu": "1", "pods": "1"}}},
        {"metadata": {"name": "n", "labels": {"zone": "a"}},
         "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "l", "effect": "PreferNoSchedule"}]},
         "status": {"allocatable": {"cpu": "1", "pods": "1"}}},
    ]);
    snapshot["pods"] = json!([]);
    snapshot["pod"] = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "p"},
        "spec": {"schedulerName": "duosuan", "containers": [{"name": "c"}], "nodeSelector": {"zone": "a"}},
    });
    // As if the core did not know taints.
    let wrong = |snapshot: &Value| {
        let mut snapshot = snapshot.clone();
        each_node(&mut snapshot, |node| node["spec"]["taints"] = json!([]));
        ours::verdicts(&snapshot)
    };
    let mut oracle = Oracle::start();
    let theirs = oracle.ask(std::slice::from_ref(&snapshot)).pop().unwrap().unwrap();
    let found = differences(&theirs, &wrong(&snapshot).unwrap());
    let [difference] = found.as_slice() else {
        panic!("{found:?}")
    };
    let smallest = shrink::smallest_by(&mut oracle, &snapshot, difference, &wrong);
    assert_eq!(
        smallest,
        json!({
            "nodes": [{"metadata": {"name": "n"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
                       "status": {"allocatable": {"pods": "1"}}}],
            "pods": [],
            "pod": {"metadata": {"name": "p", "namespace": "ns", "uid": "p"},
                    "spec": {"schedulerName": "duosuan", "containers": []}},
        })
    );
}

fn each_of(snapshot: &mut Value, what: &str, change: impl Fn(&mut Value)) {
    snapshot[what].as_array_mut().into_iter().flatten().for_each(change);
}

fn each_node(snapshot: &mut Value, change: impl Fn(&mut Value)) {
    snapshot["nodes"].as_array_mut().unwrap().iter_mut().for_each(change);
}

fn each_spread(snapshot: &mut Value, field: &str, value: Value) {
    let constraints = snapshot["pod"]["spec"]["topologySpreadConstraints"].as_array_mut();
    for constraint in constraints.into_iter().flatten() {
        constraint[field] = value.clone();
    }
}

fn each_pod(snapshot: &mut Value, change: impl Fn(&mut Value)) {
    snapshot["pods"].as_array_mut().unwrap().iter_mut().for_each(change);
}
