//! The OpenAI-compatible HTTP API, over whatever generates: a device with its link to a server, or a server by itself.

pub mod backend;
pub mod pages;
