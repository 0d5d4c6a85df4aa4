//! Files into objects: YAML or JSON, several documents, lists in them, each object with the place where it stands.

use std::{fmt, io::Read, path::Path};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;

use super::finite::{Finite, NO_NUMBER};

/// Where an object stands, and what it is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Name of the file as it was given.
    pub(crate) file: String,
    /// Number of the document in it, from 1.
    pub(crate) document: usize,
    /// Number in a list, from 1.
    pub(crate) item: Option<usize>,
    /// Kind, and namespace and name, once they are known.
    pub(crate) object: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)?;
        if let Some(item) = self.item {
            write!(f, ", item {item}")?;
        }
        if self.object.is_empty() {
            return Ok(());
        }
        write!(f, ", {}", self.object)
    }
}

/// An object as it stands in a file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Where.
    pub(crate) place: Place,
    /// The whole object.
    pub(crate) value: Value,
}

/// All objects of a file, or of standard input if it is called `-`.
///
/// # Errors
///
/// If it cannot be read, or is neither YAML nor JSON.
pub(crate) fn of_file(path: &Path) -> anyhow::Result<Vec<Document>> {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("-f -: standard input cannot be read")?;
        ("standard input".to_owned(), text)
    } else {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("-f {name} cannot be read"))?;
        (name, text)
    };
    of_text(&name, &text)
}

/// All objects of a text.
///
/// # Errors
///
/// If it is neither YAML nor JSON.
pub(crate) fn of_text(file: &str, text: &str) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    // What kubectl writes as JSON is one document, and read much faster as what it is.
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        unfold(place(file, 1), value, &mut documents)?;
        return Ok(documents);
    }
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let place = place(file, index + 1);
        let Finite(value) = Finite::deserialize(document).map_err(|error| match error.to_string() {
            // The place in the document is part of the words.
            words if words.contains(NO_NUMBER) => anyhow!("{place}: {words}"),
            words => anyhow!("{place} is no YAML: {words}"),
        })?;
        unfold(place, value, &mut documents)?;
    }
    Ok(documents)
}

fn place(file: &str, document: usize) -> Place {
    Place {
        file: file.to_owned(),
        document,
        ..Place::default()
    }
}

/// A list is its items.
fn unfold(place: Place, value: Value, into: &mut Vec<Document>) -> anyhow::Result<()> {
    let value = match value {
        // Between two lines of dashes, or behind the last.
        Value::Null => return Ok(()),
        Value::Object(object) => object,
        other => bail!("{place} is no object of Kubernetes: it holds {}", form(&other)),
    };
    let is_list = value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|k| k.ends_with("List"));
    match value.get("items") {
        Some(Value::Array(_)) if is_list => {}
        Some(other) if is_list => bail!("{place}: items: is {} and no list", form(other)),
        _ => {
            let value = Value::Object(value);
            into.push(Document { place, value });
            return Ok(());
        }
    }
    // A list of one kind need not repeat it in every item.
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let (version, kind) = (text("apiVersion"), text("kind"));
    let kind = kind
        .as_deref()
        .and_then(|k| k.strip_suffix("List"))
        .filter(|k| !k.is_empty());
    let kind = kind.map(str::to_owned);
    let Some(Value::Array(items)) = value.get("items") else {
        return Err(anyhow!("{place}: items: is no list"));
    };
    for (index, item) in items.iter().enumerate() {
        let place = Place {
            item: Some(index + 1),
            ..place.clone()
        };
        let Value::Object(item) = item else {
            bail!("{place} is no object of Kubernetes: it holds {}", form(item));
        };
        let mut item = item.clone();
        for (name, inherited) in [("apiVersion", &version), ("kind", &kind)] {
            if let Some(inherited) = inherited
                && kind.is_some()
            {
                item.entry(name).or_insert_with(|| Value::String(inherited.clone()));
            }
        }
        into.push(Document {
            place,
            value: Value::Object(item),
        });
    }
    Ok(())
}

/// A value in words.
fn form(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let documents = of_text("f", text).unwrap();
        let kind = |value: &Value| value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        documents
            .iter()
            .map(|d| (d.place.to_string(), kind(&d.value)))
            .collect()
    }

    #[test]
    fn documents_and_lists_are_read_item_by_item_and_know_where_they_stand() {
        let text = "kind: Node\n---\n---\napiVersion: v1\nkind: List\nitems: [{kind: Pod}, {kind: Queue}]\n---\napiVersion: v1\nkind: PodList\nitems: [{}]\n";
        let expected = [
            ("f, document 1", "Node"),
            ("f, document 3, item 1", "Pod"),
            ("f, document 3, item 2", "Queue"),
            ("f, document 4, item 1", "Pod"),
        ];
        assert_eq!(
            read(text),
            expected.map(|(place, kind)| (place.to_owned(), kind.to_owned()))
        );
    }

    #[test]
    fn json_is_read_as_well() {
        assert_eq!(
            read(r#"{"kind": "List", "items": [{"kind": "Pod"}]}"#),
            [("f, document 1, item 1".into(), "Pod".into())]
        );
        assert_eq!(read("{kind: Pod}"), [("f, document 1".into(), "Pod".into())]);
    }

    #[test]
    fn what_is_no_object_is_named_with_its_place() {
        let fails = |text: &str| format!("{:#}", of_text("f", text).unwrap_err());
        assert_eq!(
            fails("kind: Pod\n---\n[1]\n"),
            "f, document 2 is no object of Kubernetes: it holds a list"
        );
        assert_eq!(
            fails("kind: List\nitems: 3\n"),
            "f, document 1: items: is a number and no list"
        );
        assert_eq!(
            fails("kind: List\nitems: [a]\n"),
            "f, document 1, item 1 is no object of Kubernetes: it holds a text"
        );
        assert!(
            fails("kind: Pod\n---\nkind: [\n").starts_with("f, document 2 is no YAML: "),
            "{}",
            fails("kind: [")
        );
    }
}
