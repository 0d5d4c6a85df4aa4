//! From objects of the API to facts for the core: names stay as they are spelled, amounts become integers of the base
//! unit. This is the only place that knows both sides. All functions are pure.

pub mod claim;
pub mod dra;
pub mod expression;
pub mod gpu;
pub mod image;
pub mod node;
pub mod placement;
pub mod pod;
pub mod pod_group;
pub mod policy;
pub mod quantity;
pub mod queue;
pub mod relations;
pub mod requests;
pub mod volume;

use duosuan_crds::ANNOTATION_LAST_CHECKPOINT;
use duosuan_scheduler::{Tier, Time, event::Amounts};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1, jiff::Timestamp};
use thiserror::Error;

use crate::lean::Texts;

/// A field of an object that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Path of the field in the object.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl FieldError {
    /// An error of a field.
    pub(crate) fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }

    /// The same of a part of an object.
    pub(crate) fn within(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            ..self
        }
    }
}

/// A point in time.
pub(crate) fn time(time: Option<&v1::Time>) -> Time {
    time.map_or(Time(0), |t| Time(t.0.as_millisecond()))
}

/// When the last checkpoint of a claim or pod was written, if an annotation says so.
pub(crate) fn last_checkpoint(annotations: &Texts) -> Result<Option<Time>, FieldError> {
    let Some(text) = annotations.get(ANNOTATION_LAST_CHECKPOINT) else {
        return Ok(None);
    };
    match text.parse::<Timestamp>() {
        Ok(at) => Ok(Some(Time(at.as_millisecond()))),
        Err(error) => Err(FieldError::new(
            format!("metadata.annotations[{ANNOTATION_LAST_CHECKPOINT}]"),
            format!("{text:?} is no time such as 2026-11-29T13:05:00Z: {error}"),
        )),
    }
}

/// A tier.
pub(crate) fn tier(tier: duosuan_crds::Tier) -> Tier {
    match tier {
        duosuan_crds::Tier::Prod => Tier::Prod,
        duosuan_crds::Tier::Mid => Tier::Mid,
        duosuan_crds::Tier::Batch => Tier::Batch,
    }
}

/// Amounts by resource, in the core's base units.
pub(crate) fn amounts(texts: &Texts, field: &str) -> Result<Amounts, FieldError> {
    texts
        .iter()
        .map(|(resource, text)| {
            let amount =
                quantity::amount(resource, text).map_err(|e| FieldError::new(format!("{field}[{resource}]"), e))?;
            Ok((resource.clone(), amount))
        })
        .collect()
}
