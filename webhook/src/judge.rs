//! What is said to a request: the facts that its kind needs are read, the rules are asked, and the faults
//! are put into words.

use selvedge_model::device::rules;
use selvedge_model::fault::{Fault, introduced};
use selvedge_model::pod::security::Level;
use selvedge_model::{application, node};
use serde_json::Value;

use crate::cluster::{Cluster, ClusterError, Namespace};
use crate::review::{Request, Verdict};

/// Most faults in one answer; the API server cuts long ones.
const FAULTS_SHOWN: usize = 20;

/// Most devices named in one answer.
const DEVICES_SHOWN: usize = 10;

/// Judges a CREATE or UPDATE.
///
/// # Errors
/// When the cluster cannot be asked what a judgement needs.
pub async fn change(request: &Request, cluster: &impl Cluster) -> Result<Verdict, ClusterError> {
    match request.kind.kind.as_str() {
        "EdgeNode" => Ok(verdict(ratcheted(request, node::check), Vec::new())),
        "EdgeApplication" => edge_application(request, cluster).await,
        "DeviceModel" => device_model(request, cluster).await,
        "Device" => device(request, cluster).await,
        other => Ok(Verdict::Refused {
            code: 400,
            reason: "BadRequest",
            message: format!(
                "this webhook has no rules for the kind {other}: take it out of ValidatingWebhookConfiguration \
                 selvedge-webhook"
            ),
        }),
    }
}

/// Judges the DELETE of a DeviceModel.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn delete_model(request: &Request, cluster: &impl Cluster) -> Result<Verdict, ClusterError> {
    let (namespace, name) = (&request.namespace, &request.name);
    // A namespace that goes takes the devices too; to stop its models would only hold it up.
    if cluster.namespace(namespace).await?.is_none_or(|namespace| namespace.terminating) {
        return Ok(Verdict::Allowed { warnings: Vec::new() });
    }
    let devices = cluster.devices_of(namespace, name).await?;
    if devices.is_empty() {
        return Ok(Verdict::Allowed { warnings: Vec::new() });
    }
    let (count, names) = (devices.len(), listed(devices.iter().map(|device| device.name.clone())));
    Ok(Verdict::Refused {
        code: 409,
        reason: "Conflict",
        message: format!(
            "DeviceModel {name} is used by {count} {}: {names}. Delete them first; all of them: kubectl get \
             devices -n {namespace} --field-selector spec.modelRef.name={name}",
            if count == 1 { "Device" } else { "Devices" }
        ),
    })
}

async fn edge_application(request: &Request, cluster: &impl Cluster) -> Result<Verdict, ClusterError> {
    let namespace = cluster.namespace(&request.namespace).await?;
    let level = Level::of(namespace.as_ref().and_then(|namespace| namespace.level.as_deref()));
    let faults = ratcheted(request, |spec| application::check(spec, level));
    Ok(verdict(faults, not_enabled(&request.namespace, namespace.as_ref()).into_iter().collect()))
}

async fn device_model(request: &Request, cluster: &impl Cluster) -> Result<Verdict, ClusterError> {
    let faults = ratcheted(request, rules::check_model);
    if !faults.is_empty() || request.old_object.is_null() {
        return Ok(verdict(faults, Vec::new()));
    }
    let (old, new) = (&request.old_object["spec"], &request.object["spec"]);
    let devices = cluster.devices_of(&request.namespace, &request.name).await?;
    let broken: Vec<_> = devices
        .iter()
        .filter_map(|device| {
            let before = rules::check_device(&device.spec, Some(old));
            let faults = introduced(rules::check_device(&device.spec, Some(new)), &before);
            Some(format!("Device {}: {}", device.name, faults.first()?))
        })
        .collect();
    if broken.is_empty() {
        return Ok(Verdict::Allowed { warnings: Vec::new() });
    }
    Ok(refused(format!(
        "this change of DeviceModel {} breaks {} of its {} Devices; change those first: {}",
        request.name,
        broken.len(),
        devices.len(),
        listed(broken.into_iter())
    )))
}

async fn device(request: &Request, cluster: &impl Cluster) -> Result<Verdict, ClusterError> {
    let text = |pointer: &str| request.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (model_name, node_name) = (text("/spec/modelRef/name"), text("/spec/nodeName"));
    let namespace = cluster.namespace(&request.namespace).await?;
    let model = cluster.model(&request.namespace, model_name).await?;
    let node = cluster.node(node_name).await?;
    // A namespace that is not known here was made this moment: what it is like is not known.
    let shut_out = node.as_ref().zip(namespace.as_ref()).is_some_and(|(node, it)| !node.lets_in(&it.labels));
    let faults = ratcheted(request, |spec| {
        let mut faults = rules::check_device(spec, model.as_deref());
        if shut_out && spec["nodeName"] == node_name {
            faults.push(not_let_in(node_name, &request.namespace));
        }
        faults
    });
    let mut warnings: Vec<_> = not_enabled(&request.namespace, namespace.as_ref()).into_iter().collect();
    if model.is_none() {
        let namespace = &request.namespace;
        warnings.push(format!(
            "there is no DeviceModel {model_name} in the namespace {namespace}: the device waits for it, and its \
             desired values are checked then; kubectl get devicemodels -n {namespace} lists those that are"
        ));
    }
    if node.is_none() {
        warnings.push(format!(
            "there is no EdgeNode {node_name}: the device waits for it; to create it: echo '{{apiVersion: \
             selvedge.dev/v1alpha1, kind: EdgeNode, metadata: {{name: {node_name}}}, spec: {{}}}}' | kubectl apply -f -"
        ));
    }
    Ok(verdict(faults, warnings))
}

/// The faults that the request brings in: all of a new object, and of a changed one those that the object
/// did not have before.
fn ratcheted(request: &Request, check: impl Fn(&Value) -> Vec<Fault>) -> Vec<Fault> {
    let faults = check(&request.object["spec"]);
    match &request.old_object {
        Value::Null => faults,
        old => introduced(faults, &check(&old["spec"])),
    }
}

fn not_let_in(node: &str, namespace: &str) -> Fault {
    let message = format!(
        "{node:?} does not let the namespace {namespace} in: name a node that does; spec.allowedNamespaces in kubectl \
         get edgenode {node} -o yaml says which labels it asks for"
    );
    Fault::new("spec.nodeName", message)
}

fn not_enabled(name: &str, namespace: Option<&Namespace>) -> Option<String> {
    // A namespace that is not known here was made this moment, and is like one without labels.
    namespace.is_none_or(|namespace| !namespace.enabled).then(|| {
        format!(
            "the namespace {name} does not take part at the edge, so nothing of this reaches a node; to change \
             that: kubectl label namespace {name} {}=enabled",
            selvedge_crds::EDGE_LABEL
        )
    })
}

fn verdict(faults: Vec<Fault>, warnings: Vec<String>) -> Verdict {
    let message = match faults.as_slice() {
        [] => return Verdict::Allowed { warnings },
        [fault] => fault.to_string(),
        faults => {
            let shown: Vec<_> =
                faults.iter().take(FAULTS_SHOWN).map(|fault| format!("\n  {fault}")).collect();
            let more = faults.len() - shown.len();
            let rest = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            format!("{} faults:{}{rest}", faults.len(), shown.concat())
        }
    };
    refused(message)
}

fn refused(message: String) -> Verdict {
    Verdict::Refused { code: 422, reason: "Invalid", message }
}

fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(DEVICES_SHOWN);
    let shown: Vec<_> = items.take(DEVICES_SHOWN).collect();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &rest
}
