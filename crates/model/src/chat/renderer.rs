//! Where chat templates are compiled and rendered: in this process, or in processes that can be killed.

use std::borrow::Cow;
use std::io;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use super::pool::Pool;
use super::protocol::{Chat, Request};
use super::{ChatTemplate, Extras, TemplateSource};
use crate::Error;

/// Where chat templates are compiled and rendered; cloning shares it.
///
/// A template is a program. Fuel bounds its steps, but a single step may compare or spell values that hold each other exponentially
/// often. Only the end of a process stops that, so templates of strangers belong in processes of their own.
#[derive(Clone, Debug, Default)]
pub struct Renderer {
    /// The processes; `None` renders in this one.
    pool: Option<Arc<Pool>>,
}

impl Renderer {
    /// Renders in this process, for templates that are trusted. Compiling and rendering recurse as deep as a template is nested,
    /// and belong on [workers](crate::workers::Workers).
    #[must_use]
    pub fn in_process() -> Self {
        Self::default()
    }

    /// Renders in processes that `command` describes, which must do what [`super::answer_requests`] does on their standard input
    /// and output. They are started when they are needed, one for each chat that is rendered at the same time, and kept.
    #[must_use]
    pub fn in_processes(command: fn() -> io::Result<Command>) -> Self {
        Self { pool: Some(Arc::new(Pool::new(command))) }
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// If the template is not valid, or cannot be compiled within bounds.
    pub fn compile(&self, source: TemplateSource) -> Result<Template, Error> {
        let place = match &self.pool {
            Some(pool) => {
                pool.ask(&Request { template: Cow::Borrowed(&source), chat: None })?;
                Place::Pool(Arc::clone(pool), source)
            }
            None => Place::Here(Box::new(ChatTemplate::compile(&source)?)),
        };
        Ok(Template { place })
    }
}

/// A compiled chat template, wherever it is rendered.
#[derive(Debug)]
pub struct Template {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Here(Box<ChatTemplate>),
    Pool(Arc<Pool>, TemplateSource),
}

impl Template {
    /// As [`ChatTemplate::render_with`].
    ///
    /// # Errors
    /// If the template refuses the messages, or cannot be rendered within bounds.
    pub fn render(&self, messages: &[Value], extras: &Extras, add_generation_prompt: bool) -> Result<String, Error> {
        match &self.place {
            Place::Here(template) => template.render_with(messages, extras, add_generation_prompt),
            Place::Pool(pool, source) => {
                let (messages, extras) = (Cow::Borrowed(messages), Cow::Borrowed(extras));
                let chat = Chat { messages, extras, add_generation_prompt };
                pool.ask(&Request { template: Cow::Borrowed(source), chat: Some(chat) })
            }
        }
    }
}
