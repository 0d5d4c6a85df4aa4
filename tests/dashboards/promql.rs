//! Checks a PromQL expression against the metrics that a program really exports: names, labels, and the label values that
//! it asks for. Stricter than Prometheus, to which an invented name is only an empty answer.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail, ensure};
use promql_parser::{
    label::{METRIC_NAME, MatchOp, Matcher},
    parser::{AggregateExpr, BinaryExpr, Call, Expr, LabelModifier, VectorSelector, parse},
};

/// Labels of one series.
pub(crate) type Series = BTreeMap<String, String>;

/// Metrics by the name under which Prometheus stores them: with `_total`, `_bucket`, `_sum`, `_count`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exported {
    metrics: BTreeMap<String, Metric>,
}

#[derive(Clone, Debug, Default)]
struct Metric {
    labels: BTreeSet<String>,
    /// None: not known, as with what a recording rule makes.
    series: Option<Vec<Series>>,
}

impl Exported {
    /// Adds the metrics of a text in the OpenMetrics format.
    ///
    /// # Errors
    ///
    /// If a line cannot be read, or if a family has no series, since then nothing is known of its labels.
    pub(crate) fn add(&mut self, text: &str) -> Result<()> {
        let mut families = Vec::new();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                families.push(family.split(' ').next().unwrap_or_default().to_owned());
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, series) = series(line).with_context(|| format!("read {line:?}"))?;
            let metric = self.metrics.entry(name).or_default();
            metric.labels.extend(series.keys().cloned());
            metric.series.get_or_insert_default().push(series);
        }
        for family in families {
            let known = ["", "_total", "_bucket"]
                .iter()
                .any(|suffix| self.metrics.contains_key(&format!("{family}{suffix}")));
            ensure!(
                known,
                "{family} has no series: record something in it, so that its labels are known"
            );
        }
        Ok(())
    }

    /// Adds what a recording rule makes.
    pub(crate) fn record(&mut self, name: &str, labels: BTreeSet<String>) {
        self.metrics.insert(name.to_owned(), Metric { labels, series: None });
    }

    /// Labels of the answer to `query`.
    ///
    /// # Errors
    ///
    /// If it is no PromQL, or asks for a metric, a label or a value that is not exported.
    pub(crate) fn check(&self, query: &str) -> Result<BTreeSet<String>> {
        let expression = parse(query).map_err(|e| anyhow!("{query}: {e}"))?;
        let labels = self.labels(&expression).with_context(|| query.to_owned())?;
        Ok(labels.unwrap_or_default())
    }

    /// Labels of an expression; None for a scalar or a text.
    fn labels(&self, expression: &Expr) -> Result<Option<BTreeSet<String>>> {
        Ok(match expression {
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => None,
            Expr::Paren(inner) => self.labels(&inner.expr)?,
            Expr::Unary(inner) => self.labels(&inner.expr)?,
            Expr::Subquery(inner) => self.labels(&inner.expr)?,
            Expr::VectorSelector(selector) => Some(self.selector(selector)?),
            Expr::MatrixSelector(matrix) => Some(self.selector(&matrix.vs)?),
            Expr::Aggregate(aggregate) => Some(self.aggregate(aggregate)?),
            Expr::Binary(binary) => self.binary(binary)?,
            Expr::Call(call) => self.call(call)?,
            Expr::Extension(_) => bail!("an extension of PromQL"),
        })
    }

    fn selector(&self, selector: &VectorSelector) -> Result<BTreeSet<String>> {
        ensure!(
            selector.matchers.or_matchers.is_empty(),
            "alternatives of matchers are not understood here"
        );
        let matchers = &selector.matchers.matchers;
        let by_label = matchers.iter().find(|m| m.name == METRIC_NAME).map(|m| &m.value);
        let name = selector
            .name
            .as_ref()
            .or(by_label)
            .context("a selector without a metric's name")?;
        let metric = self
            .metrics
            .get(name)
            .with_context(|| format!("no metric {name} is exported"))?;
        let matchers: Vec<&Matcher> = matchers.iter().filter(|m| m.name != METRIC_NAME).collect();
        for matcher in &matchers {
            known(&matcher.name, &metric.labels).with_context(|| format!("metric {name}"))?;
        }
        if let Some(series) = &metric.series {
            let asked: Vec<&&Matcher> = matchers
                .iter()
                .filter(|m| matches!(m.op, MatchOp::Equal | MatchOp::Re(_)))
                .collect();
            let found = series
                .iter()
                .any(|s| asked.iter().all(|m| s.get(&m.name).is_some_and(|v| m.is_match(v))));
            ensure!(found, "no series of {name} has these values: {}", selector.matchers);
        }
        Ok(metric.labels.clone())
    }

    fn aggregate(&self, aggregate: &AggregateExpr) -> Result<BTreeSet<String>> {
        let inner = self.labels(&aggregate.expr)?.context("an aggregation of a scalar")?;
        if let Some(parameter) = &aggregate.param {
            self.labels(parameter)?;
        }
        if let Some(modifier) = &aggregate.modifier {
            for label in &modifier.labels().labels {
                known(label, &inner).with_context(|| format!("in an aggregation of {}", aggregate.expr))?;
            }
        }
        Ok(match &aggregate.modifier {
            Some(LabelModifier::Include(labels)) => labels.labels.iter().cloned().collect(),
            Some(LabelModifier::Exclude(labels)) => inner.into_iter().filter(|l| !labels.labels.contains(l)).collect(),
            // These pick series, and leave them as they are.
            None if ["topk", "bottomk"].contains(&aggregate.op.to_string().as_str()) => inner,
            None => BTreeSet::new(),
        })
    }

    fn binary(&self, binary: &BinaryExpr) -> Result<Option<BTreeSet<String>>> {
        let (left, right) = match (self.labels(&binary.lhs)?, self.labels(&binary.rhs)?) {
            (Some(left), Some(right)) => (left, right),
            (left, right) => return Ok(left.or(right)),
        };
        match binary.modifier.as_ref().and_then(|m| m.matching.as_ref()) {
            Some(matching) => {
                for label in &matching.labels().labels {
                    known(label, &left).context("in the left side")?;
                    known(label, &right).context("in the right side")?;
                }
            }
            // Prometheus would find no pair of series.
            None => ensure!(
                left == right,
                "the sides of {} have different labels: {left:?} and {right:?}",
                binary.op
            ),
        }
        Ok(Some(left))
    }

    fn call(&self, call: &Call) -> Result<Option<BTreeSet<String>>> {
        let mut answers = Vec::new();
        for argument in &call.args.args {
            answers.push(self.labels(argument)?);
        }
        let first = answers.into_iter().flatten().next();
        Ok(match call.func.name {
            "label_replace" | "label_join" => bail!("{} is not understood here", call.func.name),
            "histogram_quantile" => {
                let mut labels = first.context("histogram_quantile of a scalar")?;
                ensure!(
                    labels.remove("le"),
                    "histogram_quantile needs the label le of a histogram's buckets"
                );
                Some(labels)
            }
            "absent" | "absent_over_time" => Some(BTreeSet::new()),
            "scalar" | "time" => None,
            _ => first,
        })
    }
}

fn known(label: &str, labels: &BTreeSet<String>) -> Result<()> {
    ensure!(
        labels.contains(label),
        "there is no label {label}; there are {labels:?}"
    );
    Ok(())
}

/// Name and labels of a line such as `name{label="value"} 1`.
fn series(line: &str) -> Result<(String, Series)> {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, _) = line.split_once(' ').context("a line without a value")?;
        return Ok((name.to_owned(), Series::new()));
    };
    let mut labels = Series::new();
    let mut rest = rest;
    while !rest.starts_with('}') {
        let (label, after) = rest.split_once("=\"").context("a label without a value")?;
        let (value, after) = quoted(after)?;
        labels.insert(label.to_owned(), value);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Ok((name.to_owned(), labels))
}

/// A value up to its closing quotation mark, and what follows that.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match characters.next().context("a value that ends in a backslash")?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    bail!("a value without an end")
}
