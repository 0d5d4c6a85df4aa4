//! GPU pods: placing them, proving that there is no room, and making room.

use duosuan_scheduler::{
    Decision, Event, Tier, Time,
    event::{Claim, Gpu, GpuRequest, Node, Pod, Queue, Quota},
};

use super::{GI, Row, Run, amounts, event, gang, pod};

fn gpu_nodes(count: usize) -> Vec<Node> {
    let allocatable = amounts(&[("cpu", 128_000), ("memory", 1024 * GI), ("pods", 110)]);
    let gpu = Gpu {
        model: "A100".into(),
        memory: 80 * GI,
        ..Default::default()
    };
    let node = |i| Node {
        name: format!("node-{i:05}"),
        allocatable: allocatable.clone(),
        gpus: vec![gpu.clone(); 8],
        ..Default::default()
    };
    (0..count).map(node).collect()
}

fn gpu_pod(uid: String, queue: &str, count: u16, milli: u16) -> Pod {
    let gpus = Some(GpuRequest {
        count,
        milli,
        memory: 0,
        models: vec![],
    });
    Pod {
        gpus,
        queue: queue.into(),
        ..pod(uid, 1000, GI)
    }
}

pub(super) fn fill() -> Row {
    let mut run = Run::of(gpu_nodes(500));
    for i in 0..4000 {
        run.step(event(gpu_pod(format!("job-{i}"), "", 1, 1000)));
    }
    run.row(4000)
}

pub(super) fn shares() -> Row {
    let mut run = Run::of(gpu_nodes(500));
    for i in 0..8000_u16 {
        run.step(event(gpu_pod(format!("job-{i}"), "", 1, 100 + i % 9 * 100)));
    }
    run.row(8000)
}

pub(super) fn proof() -> Row {
    let mut run = full("", 1);
    run.start_measuring();
    let claim = Claim {
        uid: "j".into(),
        ..Default::default()
    };
    run.step(gang(claim, 10, |uid| gpu_pod(uid, "", 8, 1000)));
    run.row(10)
}

/// 500 nodes of 8 GPUs, all held by one-GPU jobs of a queue and confirmed.
fn full(queue: &str, per_job: u16) -> Run {
    let mut run = Run::of(gpu_nodes(500));
    for (name, gpus) in [("mine", 2000), ("yours", 2000)] {
        let quota = Quota {
            tier: Tier::Prod,
            guaranteed: amounts(&[("gpu", gpus * 1000)]),
            ..Default::default()
        };
        let queue = Queue {
            name: name.into(),
            weight: 1,
            quotas: vec![quota],
            ..Default::default()
        };
        run.cluster.apply(Event::Queue(Box::new(queue)));
    }
    for i in 0..4000 / usize::from(per_job) {
        let job = Pod {
            created: Time(i as i64),
            ..gpu_pod(format!("job-{i}"), queue, per_job, 1000)
        };
        for decision in run.step(event(job.clone())) {
            if let Decision::Bind { node, devices, .. } = decision {
                run.cluster.apply(Event::Pod(Box::new(Pod {
                    node: Some(node),
                    devices,
                    ..job.clone()
                })));
            }
        }
    }
    run
}

pub(super) fn reclaim_one() -> Row {
    let mut run = full("yours", 1);
    run.start_measuring();
    run.step(event(gpu_pod("asks".into(), "mine", 1, 1000)));
    run.row(1)
}

pub(super) fn reclaim_many() -> Row {
    let mut run = full("yours", 1);
    run.start_measuring();
    let claim = Claim {
        uid: "j".into(),
        queue: "mine".into(),
        ..Default::default()
    };
    run.step(gang(claim, 250, |uid| gpu_pod(uid, "mine", 8, 1000)));
    run.row(250)
}

pub(super) fn reclaim_storm() -> Row {
    let mut run = full("yours", 1);
    run.start_measuring();
    let asks = (0..4000).map(|i| Event::Pod(Box::new(gpu_pod(format!("ask-{i}"), "mine", 1, 1000))));
    run.step(asks.collect());
    let gone: Vec<Event> = run.evicted.iter().map(|uid| Event::PodGone(uid.clone())).collect();
    run.step(gone);
    run.row(4000)
}
