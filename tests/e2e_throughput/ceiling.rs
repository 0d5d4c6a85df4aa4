//! What the API server takes when somebody posts bindings who decides nothing: the bar under which every scheduler is.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::cases::{Case, IN_FLIGHT, node_name, pod_name};

/// Binds the pods of a case to its nodes in turn, with one event for each pod behind its binding if there are to be `events`.
pub(crate) async fn post(client: Client, case: Case, events: bool) -> Result<()> {
    let one = async |i: usize| {
        let (pod, node) = (pod_name(i), node_name(i % case.nodes()));
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": "default"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        create(
            &client,
            format!("/api/v1/namespaces/default/pods/{pod}/binding"),
            &binding,
        )
        .await?;
        if events {
            // As large as the one that a scheduler writes.
            let event = json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event",
                "metadata": {"name": format!("{pod}.bound"), "namespace": "default"},
                "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Binding", "reason": "Scheduled", "type": "Normal",
                "reportingController": "nobody", "reportingInstance": "nobody",
                "note": format!("Successfully assigned default/{pod} to {node}"),
                "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": pod},
            });
            create(
                &client,
                "/apis/events.k8s.io/v1/namespaces/default/events".to_owned(),
                &event,
            )
            .await?;
        }
        Ok(())
    };
    stream::iter(0..case.pods())
        .map(one)
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await
}

async fn create(client: &Client, path: String, body: &Value) -> Result<()> {
    let request = Request::post(&path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())?;
    client
        .request_text(request)
        .await
        .with_context(|| format!("POST {path}"))?;
    Ok(())
}
