//! Every query of the dashboard and of the rules asks for what the binaries really export.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use promql::Exported;

#[path = "dashboards/exported.rs"]
mod exported;
#[path = "dashboards/promql.rs"]
mod promql;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards").join(name)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("colocation.json")).unwrap()
}

fn panels(dashboard: &Value) -> Vec<Value> {
    dashboard["panels"].as_array().unwrap().clone()
}

fn exported() -> Exported {
    let mut all = Exported::default();
    all.add(&exported::operator().unwrap()).unwrap();
    all.add(&exported::agent().unwrap()).unwrap();
    all
}

/// A query as Grafana would send it: a variable stands for any of its values.
fn filled_in(query: &str, variables: &BTreeSet<String>) -> String {
    let mut query = query.replace("$__rate_interval", "5m");
    for variable in variables {
        query = query.replace(&format!("${variable}"), ".*");
    }
    assert!(
        !query.contains('$'),
        "{query}: a variable that the dashboard does not define"
    );
    query
}

fn variables(dashboard: &Value) -> BTreeSet<String> {
    let list = dashboard["templating"]["list"].as_array().unwrap();
    list.iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect()
}

/// Labels that a text such as `{{node}} {{file}}` or `{{ $labels.node }}` names; a function's name is none.
fn named(text: &str) -> Vec<String> {
    let inner = text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    inner
        .filter(|inner| !inner.trim().starts_with("$value"))
        .map(|inner| inner.trim().trim_start_matches("$labels.").to_owned())
        .collect()
}

/// Names of metrics in the text format, as they are declared.
fn names(text: &str) -> BTreeSet<&str> {
    let declared = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    declared.filter_map(|line| line.split(' ').next()).collect()
}

/// A sum over a name that both export would count the one's and the other's.
#[test]
fn operator_and_agent_export_no_metric_of_the_same_name() {
    let (operator, agent) = (exported::operator().unwrap(), exported::agent().unwrap());
    let both: Vec<&str> = names(&operator).intersection(&names(&agent)).copied().collect();
    assert_eq!(both, [""; 0]);
    assert!(names(&agent).contains("duosuan_node_evictions"));
}

#[test]
fn every_query_of_the_dashboard_asks_for_metrics_labels_and_values_that_are_exported() {
    let (dashboard, exported) = (dashboard(), exported());
    let variables = variables(&dashboard);
    let (mut wrong, mut queries) = (Vec::new(), 0);
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            queries += 1;
            match exported.check(&filled_in(target["expr"].as_str().unwrap(), &variables)) {
                Err(error) => wrong.push(format!("{title}: {error:#}")),
                Ok(labels) => {
                    for label in named(target["legendFormat"].as_str().unwrap()) {
                        if !labels.contains(&label) {
                            wrong.push(format!(
                                "{title}: the legend names {label}, and the answer has {labels:?}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(queries > 30, "only {queries} queries were found");
}

#[test]
fn every_rule_asks_for_metrics_labels_and_values_that_are_exported() {
    let mut exported = exported();
    let rules: Value = serde_yaml::from_str(&read("rules.yaml")).unwrap();
    let (mut wrong, mut alerts) = (Vec::new(), 0);
    for rule in rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|g| g["rules"].as_array().unwrap())
    {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
        match exported.check(rule["expr"].as_str().unwrap()) {
            Err(error) => wrong.push(format!("{name}: {error:#}")),
            Ok(labels) if rule["record"].is_string() => exported.record(name, labels),
            Ok(labels) => {
                alerts += 1;
                assert!(
                    rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(),
                    "{name}"
                );
                for text in rule["annotations"].as_object().unwrap().values() {
                    for label in named(text.as_str().unwrap()) {
                        if !labels.contains(&label) {
                            wrong.push(format!(
                                "{name}: an annotation names {label}, and the answer has {labels:?}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(alerts >= 5, "only {alerts} alerts were found");
}

#[test]
fn what_is_not_exported_is_found_out() {
    let exported = exported();
    for (query, words) in [
        ("duosuan_invented", "no metric duosuan_invented"),
        ("rate(duosuan_binds[5m])", "no metric duosuan_binds"),
        ("duosuan_cycle_seconds", "no metric duosuan_cycle_seconds"),
        ("duosuan_cycle_seconds_total", "no metric duosuan_cycle_seconds_total"),
        ("duosuan_leader_total", "no metric duosuan_leader_total"),
        ("duosuan_node_usage{teir=\"batch\"}", "no label teir"),
        ("duosuan_node_usage{tier!=\"batch\",pod=\"a\"}", "no label pod"),
        ("duosuan_node_usage{tier=\"bach\"}", "no series of duosuan_node_usage"),
        (
            "duosuan_node_usage{tier=~\"online|bach\"}",
            "no series of duosuan_node_usage",
        ),
        ("sum by (namespace) (duosuan_node_usage)", "no label namespace"),
        ("sum by (tier) (sum by (node) (duosuan_node_usage))", "no label tier"),
        ("sum without (namespace) (duosuan_node_usage)", "no label namespace"),
        (
            "sum(duosuan_node_usage) by (resource) / sum(duosuan_node_capacity)",
            "different labels",
        ),
        (
            "duosuan_node_usage / on (queue) duosuan_node_capacity",
            "no label queue",
        ),
        (
            "histogram_quantile(0.9, sum(rate(duosuan_cycle_seconds_bucket[5m])))",
            "needs the label le",
        ),
        ("topk(3, {tier=\"batch\"})", "without a metric's name"),
        ("1 - avg_over_time(duosuan_nothing[5m:1m])", "no metric duosuan_nothing"),
        ("sum(duosuan_node_usage", "unclosed left parenthesis"),
    ] {
        let error = exported
            .check(query)
            .map(|labels| panic!("{query} passed, with {labels:?}"))
            .unwrap_err();
        assert!(format!("{error:#}").contains(words), "{query}: {error:#}");
    }
    for (query, labels) in [
        ("sum by (tier) (duosuan_node_usage{resource=\"cpu\"})", &["tier"][..]),
        ("topk(3, duosuan_report_age_seconds)", &["node"]),
        ("sum(duosuan_node_usage) / 2 > 1", &[]),
        (
            "histogram_quantile(0.9, sum by (le) (rate(duosuan_cycle_seconds_bucket[5m])))",
            &[],
        ),
        ("{__name__=\"duosuan_leader\"}", &[]),
        ("max without (node) (duosuan_guard_state)", &["guard", "state"]),
    ] {
        let wanted: BTreeSet<String> = labels.iter().map(|&l| l.to_owned()).collect();
        assert_eq!(exported.check(query).unwrap(), wanted, "{query}");
    }
}

#[test]
fn grafana_can_show_the_dashboard() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    assert!(dashboard["id"].is_null() && dashboard["uid"].as_str().unwrap().len() <= 40);
    let text = dashboard.to_string();
    for variable in variables(&dashboard) {
        let used = text.contains(&format!("${variable}")) || text.contains(&format!("${{{variable}}}"));
        assert!(used, "variable {variable} is defined and not used");
    }
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeMap::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap().to_owned();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: another panel has its id"
        );
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is wider than the page");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            if let Some(other) = cells.insert((x, y), title.clone()) {
                panic!("{title} lies over {other}");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"].as_str().unwrap().len() > 10,
            "{title} does not say what it shows"
        );
        let mut references = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                references.insert(target["refId"].as_str().unwrap().to_owned()),
                "{title}: a refId is there twice"
            );
        }
    }
}
