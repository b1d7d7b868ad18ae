//! Specs from JSON, with everything wrong told at once.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::validate::Errors;
use super::{Boot, FieldError, Forward, Net, SpecErrors, VmSpec};

impl VmSpec {
    /// Reads a spec, checks it, and tells everything that is wrong with the fields' names, forms and values.
    pub fn from_json(value: &Value) -> Result<Self, SpecErrors> {
        let mut errors = Errors::default();
        let Some(object) = value.as_object() else {
            errors.add("", format!("a VM is described by an object, not by {}", form(value)));
            return Err(SpecErrors(errors.0));
        };
        let mut fields = Fields::new(object, "", &mut errors);
        let mut spec = Self::named("");
        let named = fields.take("name", &mut spec.name);
        fields.nested("boot", |value, path, errors| {
            if let Some(boot) = boot(value, path, errors) {
                spec.boot = boot;
            }
        });
        fields.word("kind", &mut spec.kind);
        fields.word("arch", &mut spec.arch);
        fields.word("machine", &mut spec.machine);
        fields.word("accel", &mut spec.accel);
        fields.take("cpu", &mut spec.cpu);
        fields.number("cpus", &mut spec.cpus, u32::MAX.into());
        fields.word("memory", &mut spec.memory);
        fields.optional_word("disk", &mut spec.disk);
        fields.nested("nets", |value, path, errors| {
            if let Some(nets) = list(value, path, errors, net) {
                spec.nets = nets;
            }
        });
        fields.word("provision", &mut spec.provision);
        fields.take("ssh_keys", &mut spec.ssh_keys);
        fields.take("user", &mut spec.user);
        fields.take("files", &mut spec.files);
        fields.take("cloud_init", &mut spec.cloud_init);
        fields.word("restart", &mut spec.restart);
        fields.word("on_reset", &mut spec.on_reset);
        let mut ttl = 0;
        if fields.number("ttl_seconds", &mut ttl, u64::MAX) {
            spec.ttl_seconds = Some(ttl);
        }
        fields.take("ephemeral", &mut spec.ephemeral);
        fields.optional_word("ready", &mut spec.ready);
        fields.take::<BTreeMap<String, String>>("labels", &mut spec.labels);
        fields.take("qemu_args", &mut spec.qemu_args);
        fields.finish();
        if !named && !object.contains_key("name") {
            errors.add("name", "a VM needs a name");
        }

        // What could not be read stands at its default, so the rules can be asked about the rest.
        if let Err(SpecErrors(more)) = spec.validate() {
            let told: Vec<String> = errors.0.iter().map(|error| root(&error.field).to_owned()).collect();
            errors.0.extend(
                more.into_iter().filter(|error| !told.iter().any(|field| field == root(&error.field))),
            );
        }
        errors.finish().map(|()| spec)
    }
}

impl FromStr for VmSpec {
    type Err = SpecErrors;

    /// Reads a spec from JSON text.
    fn from_str(text: &str) -> Result<Self, SpecErrors> {
        let value = serde_json::from_str(text).map_err(|error| {
            let problem = format!("the description is not JSON: {error}");
            SpecErrors(vec![FieldError { field: String::new(), problem, hint: None }])
        })?;
        Self::from_json(&value)
    }
}

/// The part of a field's path that names a field of the spec.
fn root(field: &str) -> &str {
    field.split(['.', '[']).next().unwrap_or(field)
}

/// The fields of one object, taken one by one; what is left in the end is unknown.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: &'a str,
    known: Vec<&'static str>,
    errors: &'a mut Errors,
}

impl<'a> Fields<'a> {
    fn new(object: &'a Map<String, Value>, path: &'a str, errors: &'a mut Errors) -> Self {
        Self { object, path, known: Vec::new(), errors }
    }

    fn at(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// Reads a field into its place; tells whether it was there and could be read.
    fn take<T: DeserializeOwned>(&mut self, field: &'static str, place: &mut T) -> bool {
        self.known.push(field);
        let Some(value) = self.object.get(field) else { return false };
        match T::deserialize(value) {
            Ok(value) => {
                *place = value;
                true
            }
            Err(error) => {
                let path = self.at(field);
                self.errors.add(path, error.to_string());
                false
            }
        }
    }

    /// Reads a field that is written as on the command line. A number stands for its digits: sizes may be
    /// bare.
    fn word<T: FromStr<Err: std::fmt::Display>>(&mut self, field: &'static str, place: &mut T) -> bool {
        self.known.push(field);
        let Some(value) = self.object.get(field) else { return false };
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => {
                let path = self.at(field);
                self.errors.add(path, format!("is a text, not {}", form(other)));
                return false;
            }
        };
        match text.parse() {
            Ok(value) => {
                *place = value;
                true
            }
            Err(error) => {
                let path = self.at(field);
                self.errors.add(path, error.to_string());
                false
            }
        }
    }

    /// The same for a field that may be absent or null.
    fn optional_word<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        field: &'static str,
        place: &mut Option<T>,
    ) {
        if self.object.get(field).is_some_and(Value::is_null) {
            self.known.push(field);
            return;
        }
        let mut found = Found(None);
        if self.word(field, &mut found) {
            *place = found.0;
        }
    }

    /// Reads a whole number from 0 to `most`.
    fn number<T: TryFrom<u64>>(&mut self, field: &'static str, place: &mut T, most: u64) -> bool {
        self.known.push(field);
        let Some(value) = self.object.get(field).filter(|value| !value.is_null()) else { return false };
        if let Some(number) = value.as_u64().and_then(|number| T::try_from(number).ok()) {
            *place = number;
            return true;
        }
        let path = self.at(field);
        self.errors.add(path, format!("`{value}` is not a whole number from 0 to {most}"));
        false
    }

    /// Hands a field, when it is there, to a reader of its own.
    fn nested(&mut self, field: &'static str, read: impl FnOnce(&Value, &str, &mut Errors)) {
        self.known.push(field);
        if let Some(value) = self.object.get(field) {
            let path = self.at(field);
            read(value, &path, self.errors);
        }
    }

    fn finish(self) {
        for key in self.object.keys().filter(|key| !self.known.contains(&key.as_str())) {
            let path = self.at(key);
            match nearest(key, &self.known) {
                Some(name) => self.errors.hint(path, "unknown field", format!("did you mean `{name}`?")),
                None => {
                    self.errors.hint(path, "unknown field", format!("known are {}", self.known.join(", ")));
                }
            }
        }
    }
}

/// A value read into an empty place.
struct Found<T>(Option<T>);

impl<T: FromStr> FromStr for Found<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(|value| Self(Some(value)))
    }
}

/// The known name that a mistyped one was most likely meant to be.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|other| (strsim::jaro_winkler(&name.to_lowercase(), other), *other))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, other)| other)
}

fn object<'a>(value: &'a Value, path: &str, errors: &mut Errors) -> Option<&'a Map<String, Value>> {
    let object = value.as_object();
    if object.is_none() {
        errors.add(path, format!("is an object, not {}", form(value)));
    }
    object
}

fn list<T>(
    value: &Value,
    path: &str,
    errors: &mut Errors,
    read: impl Fn(&Value, &str, &mut Errors) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(values) = value.as_array() else {
        errors.add(path, format!("is a list, not {}", form(value)));
        return None;
    };
    // Every element is read, so that each tells what is wrong with it.
    let read: Vec<Option<T>> = values
        .iter()
        .enumerate()
        .map(|(index, value)| read(value, &format!("{path}[{index}]"), errors))
        .collect();
    read.into_iter().collect()
}

fn boot(value: &Value, path: &str, errors: &mut Errors) -> Option<Boot> {
    let object = object(value, path, errors)?;
    let mut boot = Boot::default();
    let mut fields = Fields::new(object, path, errors);
    fields.take("image", &mut boot.image);
    fields.take("kernel", &mut boot.kernel);
    fields.take("initrd", &mut boot.initrd);
    fields.take("append", &mut boot.append);
    fields.finish();
    Some(boot)
}

fn net(value: &Value, path: &str, errors: &mut Errors) -> Option<Net> {
    let object = object(value, path, errors)?;
    let (mut kind, mut mac, mut forwards) = (String::new(), None, Some(Vec::new()));
    let (mut bridge, mut ip) = (String::new(), None);
    let before = errors.0.len();
    let mut fields = Fields::new(object, path, errors);
    let typed = fields.take("type", &mut kind);
    fields.optional_word("mac", &mut mac);
    if !matches!(kind.as_str(), "none" | "bridge") {
        fields.nested("forwards", |value, path, errors| forwards = list(value, path, errors, forward));
    }
    let (mut fixed, mut gateway, mut dns) = (None, None, Vec::new());
    if kind == "bridge" {
        fields.take("bridge", &mut bridge);
        fields.optional_word("ip", &mut fixed);
        fields.optional_word("gateway", &mut gateway);
        fields.take("dns", &mut dns);
    }
    if kind == "nat" {
        fields.take("ip", &mut ip);
    }
    fields.finish();
    let known = "write bridge, nat, user or none";
    match kind.as_str() {
        _ if !typed && object.contains_key("type") => {}
        "bridge" if !object.contains_key("bridge") => {
            errors.hint(format!("{path}.bridge"), "is missing", "name the bridge, such as br0");
        }
        "bridge" | "nat" | "user" | "none" => {}
        "" => errors.hint(format!("{path}.type"), "is missing", known),
        other => errors.hint(format!("{path}.type"), format!("`{other}` is no network"), known),
    }
    if errors.0.len() > before {
        return None;
    }
    match kind.as_str() {
        "none" => Some(Net::None { mac }),
        "bridge" => Some(Net::Bridge { bridge, mac, ip: fixed, gateway, dns }),
        "nat" => forwards.map(|forwards| Net::Nat { forwards, mac, ip }),
        _ => forwards.map(|forwards| Net::User { forwards, mac }),
    }
}

fn forward(value: &Value, path: &str, errors: &mut Errors) -> Option<Forward> {
    let object = object(value, path, errors)?;
    let before = errors.0.len();
    let mut forward = Forward { address: super::forward::localhost(), host: 0, guest: 0 };
    let mut fields = Fields::new(object, path, errors);
    fields.take("address", &mut forward.address);
    fields.number("host", &mut forward.host, u16::MAX.into());
    fields.number("guest", &mut forward.guest, u16::MAX.into());
    fields.finish();
    for field in ["host", "guest"] {
        if !object.contains_key(field) {
            errors.add(format!("{path}.{field}"), "is missing");
        }
    }
    (errors.0.len() == before).then_some(forward)
}

/// What a JSON value is, in words.
fn form(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
