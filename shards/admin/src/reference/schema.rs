//! Types as people read them, from their JSON schemas.

use super::CONSTANTS;
use crate::route::Describe;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Where the schemas of types are among those of others.
const DEFINITIONS: &str = "#/$defs/";

/// The types of the page.
#[derive(Default)]
pub(super) struct Types {
    generator: SchemaGenerator,
    /// The schemas of what goes in.
    taken: Vec<Value>,
}

impl Types {
    /// A type that goes in.
    pub(super) fn taken(&mut self, describe: Describe) -> String {
        let schema = describe(&mut self.generator).to_value();
        let words = words(&schema);
        self.taken.push(schema);
        words
    }

    /// A type that goes out.
    pub(super) fn given(&mut self, describe: Describe) -> String {
        words(&describe(&mut self.generator).to_value())
    }

    /// Every type that has a name, with its fields.
    pub(super) fn describe(&self, page: &mut String) {
        let definitions = self.generator.definitions();
        let mut sent = BTreeSet::new();
        self.taken.iter().for_each(|schema| collect(schema, definitions, &mut sent));
        for (name, schema) in definitions {
            let _ = writeln!(page, "\n### {name}\n\n{}", described(schema, definitions));
            let Some(fields) = schema.get("properties").and_then(Value::as_object) else {
                if schema.get("enum").is_some() || schema.get("oneOf").is_some() {
                    choices(page, schema, definitions);
                }
                continue;
            };
            page.push_str("\n| field | type | meaning |\n| --- | --- | --- |\n");
            let required = schema.get("required").and_then(Value::as_array);
            for (field, schema) in fields {
                let is_required = required.is_some_and(|names| names.iter().any(|name| name == field));
                let optional = if sent.contains(name) && !is_required { ", may be left out" } else { "" };
                let meaning = described(schema, definitions);
                let _ = writeln!(page, "| `{field}` | {}{optional} | {meaning} |", words(schema));
            }
        }
    }
}

/// The words of a closed set, with their meanings where they have some.
fn choices(page: &mut String, schema: &Value, definitions: &Map<String, Value>) {
    page.push_str("\n| value | meaning |\n| --- | --- |\n");
    for choice in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let name = choice.get("const").and_then(Value::as_str).unwrap_or_default();
        let _ = writeln!(page, "| `\"{name}\"` | {} |", described(choice, definitions));
    }
    for name in schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(page, "| `\"{name}\"` | |");
    }
}

/// The names of the types that a schema leads to.
fn collect(schema: &Value, definitions: &Map<String, Value>, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(name) = reference(schema)
                && names.insert(name.to_owned())
                && let Some(definition) = definitions.get(name)
            {
                collect(definition, definitions, names);
            }
            members.values().for_each(|member| collect(member, definitions, names));
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect(element, definitions, names)),
        _ => {}
    }
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref").and_then(Value::as_str)?.strip_prefix(DEFINITIONS)
}

/// What a value is, in a few words.
fn words(schema: &Value) -> String {
    if let Some(name) = reference(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        return choices.iter().map(words).collect::<Vec<_>>().join(" or ");
    }
    match schema.get("type") {
        Some(Value::String(name)) => of_type(name, schema),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            names.map(|name| of_type(name, schema)).collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    }
}

fn of_type(name: &str, schema: &Value) -> String {
    match name {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "null" => "`null`".to_owned(),
        "array" => match (schema.get("items"), schema.get("prefixItems").and_then(Value::as_array)) {
            (Some(items), None) => format!("list of {}", words(items)),
            (_, Some(items)) => format!("[{}]", items.iter().map(words).collect::<Vec<_>>().join(", ")),
            (None, None) => "list".to_owned(),
        },
        "object" => {
            let by_pattern = schema.get("patternProperties").and_then(|patterns| patterns.as_object()?.values().next());
            match (schema.get("additionalProperties"), by_pattern) {
                (_, Some(values)) => format!("{} by number", words(values)),
                (Some(values @ Value::Object(_)), None) => format!("{} by name", words(values)),
                _ => "object".to_owned(),
            }
        }
        other => other.to_owned(),
    }
}

/// What the comments say, on one line, with their links and constants resolved.
fn described(schema: &Value, definitions: &Map<String, Value>) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let mut resolved = String::new();
    let mut rest = text;
    while let Some((before, name, behind)) = link(rest) {
        resolved.push_str(before);
        match CONSTANTS.iter().find(|(constant, _)| *constant == name) {
            Some((_, value)) => resolved.push_str(&value.to_string()),
            None if definitions.contains_key(name) => {
                let _ = write!(resolved, "[{name}](#{})", name.to_lowercase());
            }
            None => resolved.push_str(name),
        }
        rest = behind;
    }
    resolved.push_str(rest);
    resolved.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The first link of a comment: what is before it, the last part of its name, and what is behind it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (before, linked) = text.split_once("[`")?;
    let (path, behind) = linked.split_once("`]")?;
    let behind = match behind.strip_prefix('(').and_then(|target| target.split_once(')')) {
        Some((_, behind)) => behind,
        None => behind,
    };
    Some((before, path.rsplit("::").next().unwrap_or(path), behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_in_words() {
        for (schema, expected) in [
            (json!({ "type": "string" }), "text"),
            (json!({ "type": ["integer", "null"], "format": "uint64" }), "whole number or `null`"),
            (json!({ "type": "array", "items": { "$ref": "#/$defs/BanView" } }), "list of [BanView](#banview)"),
            (json!({ "anyOf": [{ "$ref": "#/$defs/Moment" }, { "type": "null" }] }), "[Moment](#moment) or `null`"),
            (json!({ "type": "object", "additionalProperties": { "type": "integer" } }), "whole number by name"),
            (json!({ "type": "array", "prefixItems": [{ "type": "string" }, true] }), "[text, anything]"),
            (json!({ "type": "number" }), "number"),
            (json!(true), "anything"),
        ] {
            assert_eq!(words(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn links_of_comments_are_resolved() {
        let mut definitions = Map::new();
        definitions.insert("BanView".to_owned(), json!({}));
        for (text, expected) in [
            ("at most [`IDS_MAX`](crate::api::IDS_MAX)\nof them", "at most 1000 of them"),
            ("a [`BanView`], and [`super::Other`]", "a [BanView](#banview), and Other"),
            ("a | b", "a \\| b"),
            ("", ""),
        ] {
            assert_eq!(described(&json!({ "description": text }), &definitions), expected);
        }
    }
}
