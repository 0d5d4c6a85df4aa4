//! The chart's definitions are those of the code, and every field of them is documented.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};

#[test]
fn the_chart_holds_the_definitions_of_the_code_and_no_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/duosuan/crds");
    let wanted: BTreeMap<String, String> = duosuan_crds::all()
        .iter()
        .map(|crd| {
            (
                format!("{}.yaml", crd.spec.names.plural),
                duosuan_crds::yaml(crd).unwrap(),
            )
        })
        .collect();
    let found: BTreeMap<String, String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name().into_string().unwrap(),
                fs::read_to_string(entry.path()).unwrap(),
            )
        })
        .collect();
    for name in wanted.keys().chain(found.keys()) {
        assert!(
            wanted.get(name) == found.get(name),
            "charts/duosuan/crds/{name} differs from the code: run `cargo run -p duosuan-crds --bin crds-gen`"
        );
    }
}

#[test]
fn every_field_says_what_it_means_and_every_list_map_and_text_of_a_spec_is_bounded() {
    for crd in duosuan_crds::all() {
        let name = crd.spec.names.kind.clone();
        let root = crd.spec.versions[0]
            .schema
            .as_ref()
            .unwrap()
            .open_api_v3_schema
            .as_ref()
            .unwrap();
        let mut complaints = Vec::new();
        for (field, schema) in root.properties.as_ref().unwrap() {
            visit(&format!("{name}.{field}"), schema, field == "spec", &mut complaints);
        }
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}

fn visit(path: &str, schema: &JSONSchemaProps, bounded: bool, complaints: &mut Vec<String>) {
    let mut complain = |what: &str| complaints.push(format!("{path}: {what}"));
    if schema.description.as_deref().is_none_or(|d| d.len() < 5) {
        complain("has no description");
    }
    if schema.nullable.is_some() {
        complain("is nullable");
    }
    // What Kubernetes' own types hold is described and checked by Kubernetes, not by us.
    if path.ends_with(".affinity") || path.ends_with(".tolerations") || path.ends_with(".conditions") {
        return;
    }
    if bounded {
        match schema.type_.as_deref() {
            Some("array") if schema.max_items.is_none() => complain("is a list without maxItems"),
            Some("object") if schema.additional_properties.is_some() && schema.max_properties.is_none() => {
                complain("is a map without maxProperties");
            }
            Some("string") if schema.max_length.is_none() && schema.enum_.is_none() && schema.format.is_none() => {
                complain("is a text without maxLength");
            }
            Some("integer") if schema.maximum.is_none() || schema.minimum.is_none() => {
                complain("is a number without bounds")
            }
            _ => {}
        }
    }
    for (name, field) in schema.properties.iter().flatten() {
        visit(&format!("{path}.{name}"), field, bounded, complaints);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items
        && item.properties.is_some()
    {
        for (name, field) in item.properties.iter().flatten() {
            visit(&format!("{path}[].{name}"), field, bounded, complaints);
        }
    }
}

#[test]
fn every_kind_has_a_short_name_a_category_columns_and_a_status_of_its_own() {
    for crd in duosuan_crds::all() {
        let (names, version) = (&crd.spec.names, &crd.spec.versions[0]);
        assert!(!names.short_names.as_ref().unwrap().is_empty(), "{}", names.kind);
        assert_eq!(
            names.categories.as_deref(),
            Some(&["duosuan".to_owned()][..]),
            "{}",
            names.kind
        );
        assert!(
            version.additional_printer_columns.as_ref().unwrap().len() >= 3,
            "{}",
            names.kind
        );
        assert!(
            version.subresources.as_ref().unwrap().status.is_some(),
            "{}",
            names.kind
        );
        let schema = serde_json::to_value(&version.schema).unwrap();
        let conditions = &schema["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{}", names.kind);
        assert_eq!(
            conditions["x-kubernetes-list-map-keys"],
            serde_json::json!(["type"]),
            "{}",
            names.kind
        );
    }
}

#[test]
fn what_a_policy_says_of_fields_that_nothing_acts_on_is_what_the_code_says() {
    fn walk(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
        let unserved = schema.description.as_ref();
        if unserved.is_some_and(|d| d.contains("Not acted on yet")) {
            found.push(path.to_owned());
        }
        for (name, field) in schema.properties.iter().flatten() {
            walk(&format!("{path}.{name}"), field, found);
        }
    }
    let crds = duosuan_crds::all();
    let crd = crds.iter().find(|c| c.spec.names.kind == "ColocationPolicy").unwrap();
    let root = crd.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref()
        .unwrap();
    let spec = &root.properties.as_ref().unwrap()["spec"];
    let mut described = Vec::new();
    walk("spec", spec, &mut described);
    // Every object below the spec given and empty.
    let whole = |schema: &JSONSchemaProps| -> serde_json::Value {
        let objects = schema
            .properties
            .iter()
            .flatten()
            .filter(|(_, f)| f.type_.as_deref() == Some("object"));
        objects
            .map(|(name, _)| (name.clone(), serde_json::json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let mut given = whole(spec);
    given["guards"] = whole(&spec.properties.as_ref().unwrap()["guards"]);
    let given: duosuan_crds::ColocationPolicySpec = serde_json::from_value(given).unwrap();
    let mut listed = given.not_acted_on();
    listed.sort_unstable();
    described.sort_unstable();
    assert_eq!(listed, described);
    assert_eq!(duosuan_crds::ColocationPolicySpec::default().not_acted_on(), [""; 0]);
}
