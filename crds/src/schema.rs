//! What the derived schemas still lack to be the schemas that an API server enforces and `kubectl explain` prints.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use thiserror::Error;

use crate::{CapacityClaim, ColocationPolicy, NodeReport, Queue};

/// A quantity that is not negative: `2`, `500m`, `1.5Gi`, `1e3`.
const QUANTITY_PATTERN: &str = r"^[0-9]{1,19}(\.[0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]{1,2})?$";
/// Longest quantity that [`QUANTITY_PATTERN`] accepts: 19 digits, a point, 9 digits, 3 for the suffix.
const QUANTITY_LENGTH: i64 = 32;

/// All definitions, always in the same order: the one that `kubectl apply` may take them in.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    [
        CapacityClaim::crd(),
        ColocationPolicy::crd(),
        NodeReport::crd(),
        Queue::crd(),
    ]
    .map(finish)
    .into()
}

/// A definition cannot be written as YAML.
#[derive(Debug, Error)]
#[error("write the definition {name} as YAML: {source}")]
pub struct YamlError {
    /// Name of the definition.
    pub name: String,
    /// What the serializer said.
    pub source: serde_yaml::Error,
}

/// One definition as YAML, as it stands in the chart.
///
/// # Errors
///
/// If the serializer fails, which no definition of [`all`] makes it do.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, YamlError> {
    let fail = |source| YamlError {
        name: crd.metadata.name.clone().unwrap_or_default(),
        source,
    };
    let mut value = serde_yaml::to_value(crd).map_err(fail)?;
    whole_numbers(&mut value);
    serde_yaml::to_string(&value).map_err(fail)
}

/// Bounds are floats in the definition's type, and would read `maximum: 1000.0`.
fn whole_numbers(value: &mut serde_yaml::Value) {
    match value {
        serde_yaml::Value::Number(number) => {
            if let Some(float) = number
                .as_f64()
                .filter(|f| number.is_f64() && f.fract() == 0.0 && f.abs() < 1e15)
            {
                #[allow(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
                let whole = float as i64;
                *value = serde_yaml::Value::Number(whole.into());
            }
        }
        serde_yaml::Value::Sequence(items) => items.iter_mut().for_each(whole_numbers),
        serde_yaml::Value::Mapping(items) => items.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            tidy(root);
            optional_spec(root);
        }
    }
    crd
}

/// A specification that requires nothing need not be written: a Queue or a policy with every default is its name alone.
fn optional_spec(root: &mut JSONSchemaProps) {
    let spec = root.properties.as_mut().and_then(|p| p.get_mut("spec"));
    if let Some(spec) = spec.filter(|spec| spec.required.as_ref().is_none_or(Vec::is_empty)) {
        spec.default = Some(JSON(serde_json::json!({})));
        let required = root.required.take().unwrap_or_default();
        root.required =
            Some(required.into_iter().filter(|name| name != "spec").collect()).filter(|r: &Vec<_>| !r.is_empty());
    }
}

fn tidy(schema: &mut JSONSchemaProps) {
    // Absent is how the API says "not given"; null would be a second way, which CEL rules would have to know.
    schema.nullable = None;
    if let Some(text) = &mut schema.description {
        *text = paragraphs(text);
    }
    // The API server knows int32 and int64; of other formats it warns.
    match schema.format.as_deref() {
        Some("uint8" | "uint16" | "int16") => schema.format = Some("int32".into()),
        Some("uint32" | "uint64") => schema.format = Some("int64".into()),
        _ => {}
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.pattern = Some(QUANTITY_PATTERN.into());
        schema.minimum = Some(0.0);
        schema.max_length = Some(QUANTITY_LENGTH);
        schema.description = schema.description.take().map(|d| {
            if d.starts_with("Quantity is a fixed-point") {
                "A quantity: 2, 500m, 1.5Gi.".into()
            } else {
                d
            }
        });
    }
    if let Some(properties) = &mut schema.properties {
        properties.values_mut().for_each(tidy);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => tidy(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

/// Joins the lines of a paragraph, since `kubectl explain` breaks lines itself; empty lines stay.
fn paragraphs(text: &str) -> String {
    text.split("\n\n")
        .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
