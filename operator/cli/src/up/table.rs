//! How a summary looks.

use std::{fmt::Write, path::Path};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use duosuan_crds::claim::Phase;

use super::parts::Metrics;
use super::view::{Amount, Summary, TierView, percent};
use crate::columns;

/// Rows of claims and of reasons that are shown; the rest is counted.
const MOST_ROWS: usize = 12;

/// What a user can do now.
pub(crate) fn hints(kubeconfig: &Path, metrics: Metrics) -> String {
    let agents = metrics.agents.map_or_else(String::new, |agents| {
        format!("Metrics of the agents: http://{agents}/metrics\n")
    });
    format!(
        "\nexport KUBECONFIG={}\n\n\
         Metrics of the operator: http://{}/metrics\n{agents}\
         Try next, in another terminal:\n\n\
         kubectl get queues,capacityclaims -A\n\
         kubectl explain capacityclaim.spec.groups\n\
         kubectl apply -f - <<'YAML'\n{FIRST_POD}YAML\n\n\
         Ctrl-C ends everything.\n\n",
        kubeconfig.display(),
        metrics.operator,
    )
}

/// The first YAML: three tenths of a GPU for a minute. The label alone brings the pod to Duosuan's scheduler.
const FIRST_POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: notebook
  namespace: demo
  labels: { duosuan.io/queue: ai }
  annotations: { duosuan.io/gpu-share: \"300\", duosuan.io/run-time: 60s }
spec:
  restartPolicy: Never
  containers: [{ name: main, image: registry.k8s.io/pause:3.10, resources: { requests: { cpu: \"1\" } } }]
";

/// One line, where no table can be drawn.
pub(crate) fn line(summary: &Summary) -> String {
    let pods = summary.pods;
    let claims = (
        summary.claims_in(Phase::Running),
        summary.claims_in(Phase::Pending),
        summary.claims_in(Phase::Finished),
    );
    format!(
        "nodes {}/{} ready, pods {} bound {} pending, claims {} running {} pending {} finished, gpu {:.1} % prod cpu {:.1} % batch cpu {:.1} %",
        summary.nodes_ready,
        summary.nodes,
        pods.bound,
        pods.pending,
        claims.0,
        claims.1,
        claims.2,
        summary.gpu_percent(),
        percent(summary.prod.requested.cpu, summary.prod.capacity.cpu),
        percent(summary.batch.requested.cpu, summary.batch.capacity.cpu),
    )
}

/// The whole picture.
pub(crate) fn draw(summary: &Summary) -> String {
    let pods = summary.pods;
    let mut text = format!(
        "Nodes {}/{} ready   Pods {} bound, {} running, {} pending   Claims {} running, {} pending\n",
        summary.nodes_ready,
        summary.nodes,
        pods.bound,
        pods.running,
        pods.pending,
        summary.claims_in(Phase::Running),
        summary.claims_in(Phase::Pending),
    );
    for table in [tiers(summary), queues(summary), claims(summary), reasons(summary)]
        .into_iter()
        .flatten()
    {
        let _infallible = writeln!(text, "\n{table}");
    }
    text
}

/// The first `rows` lines of a text, the last of which says that there is more.
pub(crate) fn fit(text: String, rows: usize) -> String {
    if text.lines().count() <= rows {
        return text;
    }
    let mut lines: Vec<&str> = text.lines().take(rows.saturating_sub(1)).collect();
    lines.push("(a taller terminal shows more)");
    lines.join("\n") + "\n"
}

fn table(header: &[&str]) -> Table {
    let mut table = columns::named(header.to_vec());
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn tiers(summary: &Summary) -> Option<Table> {
    let mut table = table(&["TIER", "CPU", "REQUESTED", "USED", "MEMORY", "REQUESTED", "USED"]);
    for (name, tier) in [("prod", summary.prod), ("mid", summary.mid), ("batch", summary.batch)] {
        if tier != TierView::default() {
            let capacity = tier.capacity;
            let part =
                |amount: i64, whole: i64, told: String| number(format!("{told} {:>5.1} %", percent(amount, whole)));
            table.add_row([
                Cell::new(name),
                number(cores(capacity.cpu)),
                part(tier.requested.cpu, capacity.cpu, cores(tier.requested.cpu)),
                part(tier.used.cpu, capacity.cpu, cores(tier.used.cpu)),
                number(gib(capacity.memory)),
                part(tier.requested.memory, capacity.memory, gib(tier.requested.memory)),
                part(tier.used.memory, capacity.memory, gib(tier.used.memory)),
            ]);
        }
    }
    if summary.gpu_capacity_milli > 0 {
        let told = format!("{} {:>5.1} %", devices(summary.gpu_milli), summary.gpu_percent());
        let empty = || Cell::new("");
        table.add_row([
            Cell::new("gpu"),
            number(devices(summary.gpu_capacity_milli)),
            number(told),
            empty(),
            empty(),
            empty(),
            empty(),
        ]);
    }
    Some(table)
}

fn queues(summary: &Summary) -> Option<Table> {
    let mut table = table(&["QUEUE", "RUNNING", "PENDING", "PODS", "PROD CPU", "BATCH CPU", "GPU"]);
    for (name, queue) in &summary.queues {
        let cpu = |tier: &str| cores(queue.requested.get(tier).map_or(0, |amount: &Amount| amount.cpu));
        table.add_row([
            Cell::new(name),
            number(queue.running.to_string()),
            number(queue.pending.to_string()),
            number(queue.pods.to_string()),
            number(cpu("prod")),
            number(cpu("batch")),
            number(devices(queue.gpu_milli)),
        ]);
    }
    (!summary.queues.is_empty()).then_some(table)
}

fn claims(summary: &Summary) -> Option<Table> {
    let mut table = table(&["CLAIM", "QUEUE", "TIER", "PHASE", "PODS", "WHY"]);
    // What waits is what one looks for.
    let (pending, rest): (Vec<_>, Vec<_>) = summary.claims.iter().partition(|claim| claim.phase == Phase::Pending);
    for claim in pending.into_iter().chain(rest).take(MOST_ROWS) {
        table.add_row([
            Cell::new(format!("{}/{}", claim.namespace, claim.name)),
            Cell::new(&claim.queue),
            Cell::new(claim.tier.as_str()),
            Cell::new(format!("{:?}", claim.phase)),
            number(format!("{}/{}", claim.placed, claim.desired)),
            Cell::new(if claim.phase == Phase::Pending {
                claim.reason.as_str()
            } else {
                ""
            }),
        ]);
    }
    if summary.claims.len() > MOST_ROWS {
        table.add_row([format!("and {} more", summary.claims.len() - MOST_ROWS)]);
    }
    (!summary.claims.is_empty()).then_some(table)
}

fn reasons(summary: &Summary) -> Option<Table> {
    let mut table = table(&["PENDING PODS", "SUCH AS", "WHY"]);
    let mut reasons: Vec<_> = summary.reasons.iter().collect();
    reasons.sort_by_key(|(why, (count, _))| (std::cmp::Reverse(*count), *why));
    for (why, (count, example)) in reasons.iter().take(MOST_ROWS / 3) {
        table.add_row([number(count.to_string()), Cell::new(example), Cell::new(why)]);
    }
    (!reasons.is_empty()).then_some(table)
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn cores(milli: i64) -> String {
    format!("{:.1}", milli as f64 / 1000.0)
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn devices(milli: i64) -> String {
    format!("{:.1}", milli as f64 / 1000.0)
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn gib(bytes: i64) -> String {
    format!("{:.0} GiB", bytes as f64 / f64::from(1_u32 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_for_the_terminal_says_so() {
        assert_eq!(fit("a\nb\n".into(), 2), "a\nb\n");
        assert_eq!(fit("a\nb\nc\n".into(), 2), "a\n(a taller terminal shows more)\n");
    }

    #[test]
    fn the_first_yaml_is_a_pod_that_the_routing_policy_takes() {
        let objects = crate::up::apply::documents("hint", FIRST_POD).unwrap_or_default();
        let labels = objects.first().and_then(|pod| pod.metadata.labels.as_ref());
        assert!(
            labels.is_some_and(|labels| labels.contains_key(duosuan_crds::LABEL_QUEUE)),
            "{objects:?}"
        );
    }

    #[test]
    fn a_cluster_without_anything_is_drawn_too() {
        let text = draw(&Summary::default());
        assert!(
            text.starts_with("Nodes 0/0 ready   Pods 0 bound, 0 running, 0 pending   Claims 0 running, 0 pending\n"),
            "{text}"
        );
    }
}
