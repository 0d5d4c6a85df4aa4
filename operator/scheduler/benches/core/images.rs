//! Pods whose images some nodes hold already.

use std::collections::BTreeMap;

use duosuan_scheduler::{
    Event,
    event::{Node, Pod},
};

use super::{GI, MI, Row, Run, event, plain_nodes, pod};

/// Images of 2 GiB.
const IMAGES: usize = 100;
/// Images that a node holds.
const EACH: usize = 5;

fn image(i: usize) -> String {
    format!("registry.example.com/team/image-{:02}:v1", i % IMAGES)
}

fn with_images(node: Node, first: usize) -> Node {
    let images: BTreeMap<String, i64> = (0..EACH).map(|k| (image(first + 13 * k), 2 * GI)).collect();
    Node { images, ..node }
}

/// The basic case where each pod is of one of the images. Each tenth time another node's images change.
pub(super) fn held() -> Row {
    let nodes = plain_nodes(5000).into_iter().enumerate();
    let nodes: Vec<Node> = nodes.map(|(i, node)| with_images(node, i)).collect();
    let mut run = Run::of(nodes.clone());
    let pod = |i: usize| Pod {
        images: vec![image(i)],
        ..pod(format!("pod-{i}"), 100, 500 * MI)
    };
    for i in 0..5000 {
        run.step(event(pod(i)));
    }
    run.start_measuring();
    for i in 0..20_000 {
        let mut events = event(pod(5000 + i));
        if i % 10 == 0 {
            let at = i * 7 % nodes.len();
            events.push(Event::Node(Box::new(with_images(nodes[at].clone(), at + 1 + i))));
        }
        run.step(events);
    }
    run.row(20_000)
}
