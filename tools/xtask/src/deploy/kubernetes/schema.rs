//! Every object against the strict JSON schema of its kind, from a pinned package: unknown keys are refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::super::{DeployError, read};
use super::Manifests;

/// What all schemas refer to.
const DEFINITIONS: &str = "_definitions.json";

/// What the schemas refuse.
pub(crate) fn check(manifests: &Manifests, schemas: &Path) -> Result<Vec<String>, DeployError> {
    let definitions = json(&schemas.join(DEFINITIONS))?;
    let mut validators = BTreeMap::new();
    let mut findings = Vec::new();
    for (file, object) in &manifests.objects {
        let name = schema_name(object);
        if !validators.contains_key(&name) {
            let schema = json(&schemas.join(&name))?;
            let validator =
                compile(&schema, &definitions).map_err(|detail| DeployError::Syntax { path: schemas.join(&name), detail })?;
            validators.insert(name.clone(), validator);
        }
        let told = validators[&name].iter_errors(object).map(|error| {
            let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
            format!("deploy/k8s/{file}: {kind} {name}: {}: {error}", error.instance_path())
        });
        findings.extend(told);
    }
    Ok(findings)
}

/// `apps/v1` and `Deployment` are described by `deployment-apps-v1.json`.
fn schema_name(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let version = version.split_once('/').map_or_else(
        || version.to_owned(),
        |(group, version)| format!("{}-{version}", group.split('.').next().unwrap_or_default()),
    );
    format!("{kind}-{version}.json")
}

/// The schemas refer to one another by the name of the file with the definitions.
fn compile(schema: &Value, definitions: &Value) -> Result<jsonschema::Validator, String> {
    let registry = jsonschema::Registry::new()
        .add(format!("json-schema:///{DEFINITIONS}"), definitions.clone())
        .and_then(|registry| registry.prepare())
        .map_err(|error| error.to_string())?;
    let options = jsonschema::options().with_base_uri("json-schema:///schema.json").with_registry(&registry);
    options.build(schema).map_err(|error| error.to_string())
}

fn json(path: &Path) -> Result<Value, DeployError> {
    serde_json::from_str(&read(path)?).map_err(|error| DeployError::Syntax { path: path.to_owned(), detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{GOOD, manifests};
    use super::*;

    #[test]
    fn unknown_keys_and_kinds_are_told() {
        let temp = tempfile::tempdir().expect("a folder");
        let strict = r##"{"$ref": "_definitions.json#/definitions/Known"}"##;
        let known = r#"{"definitions": {"Known": {"properties": {"apiVersion": {}, "kind": {}, "metadata": {}, "spec": {}, "stringData": {}}, "additionalProperties": false}}}"#;
        fs::write(temp.path().join(DEFINITIONS), known).expect("written");
        for kind in [
            "service-v1",
            "secret-v1",
            "deployment-apps-v1",
            "statefulset-apps-v1",
            "poddisruptionbudget-policy-v1",
            "networkpolicy-networking-v1",
        ] {
            fs::write(temp.path().join(format!("{kind}.json")), strict).expect("written");
        }
        assert_eq!(check(&manifests(GOOD), temp.path()).expect("schemas"), Vec::<String>::new());
        let told = check(&manifests(&GOOD.replacen("stringData:", "strangeData:", 1)), temp.path()).expect("schemas");
        assert!(told.len() == 1 && told[0].contains("strangeData"), "{told:?}");
        assert!(check(&manifests("apiVersion: v1\nkind: Pot"), temp.path()).is_err());
    }
}
