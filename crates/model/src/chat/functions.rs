//! What templates may call beside the engine's own functions.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Adds all of it to `environment`.
pub(super) fn add(environment: &mut Environment<'static>) {
    // Templates call Python's methods on strings and dictionaries.
    environment.set_unknown_method_callback(method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    environment.add_test("iterable", is_iterable);
}

/// As in Python, where nothing is not iterable.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// JSON as Python's `json.dumps` writes it, which is what models were trained on.
fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut written = Charged { state, bytes: Vec::new(), charged: 0 };
    let result = match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(16)];
            value.serialize(&mut Serializer::with_formatter(&mut written, PrettyFormatter::with_indent(&spaces)))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut written, PythonFormatter)),
    };
    // If it was stopped, this says so.
    state.consume_fuel(0)?;
    result.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(String::from_utf8_lossy(&written.bytes).into_owned())
}

/// Takes bytes as long as there is fuel: a value may hold another many times over.
struct Charged<'a, 'template, 'environment> {
    state: &'a State<'template, 'environment>,
    bytes: Vec<u8>,
    charged: usize,
}

impl Charged<'_, '_, '_> {
    /// How many bytes a unit of fuel writes: serialising is slower than copying.
    const A_UNIT: usize = 8;
}

impl io::Write for Charged<'_, '_, '_> {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(more);
        let units = (self.bytes.len() - self.charged) / Self::A_UNIT;
        self.charged += units * Self::A_UNIT;
        match self.state.consume_fuel(units as u64) {
            Ok(()) => Ok(more.len()),
            Err(_empty) => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's methods on strings and dictionaries.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    // What is not a string or a number may hold another many times over, and would be spelt without fuel.
    if value.kind() == ValueKind::String && name == "join" {
        let Some(values) = arguments.first() else { return Err(ErrorKind::MissingArgument.into()) };
        for value in values.try_iter()? {
            state.consume_fuel(1)?;
            if value.as_object().is_some() {
                return Err(Error::new(ErrorKind::InvalidOperation, "only strings can be joined"));
            }
        }
    }
    pycompat::unknown_method_callback(state, value, name, arguments)
}

/// A space after each comma and colon.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// What templates call to refuse messages.
fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// What templates call to name the date, in the local time zone.
fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}
