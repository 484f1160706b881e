//! The form that every message to the user has: what is wrong, where, detail, and what to do next.
//!
//! Hides the renderer, which is rustc's own.

use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use stepwell_workflow::{SourceFile, Span};

use super::words::clean;

/// A message.
#[derive(Debug, Clone)]
pub(crate) struct Message<'a> {
    pub level: Level<'static>,
    /// What is wrong: lower case, no full stop.
    pub headline: String,
    pub place: Place<'a>,
    /// The statement at fault.
    pub statement: Option<Excerpt<'a>>,
    /// What follows, each under a name: `detail`, `state`, `help`.
    pub remarks: Vec<(&'static str, String)>,
}

/// Where in a workflow file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    Nowhere,
    File(&'a Path),
    At(&'a SourceFile, Span),
}

/// A part of a text that is no file.
#[derive(Debug, Clone)]
pub(crate) struct Excerpt<'a> {
    /// What the text is.
    pub title: String,
    pub text: &'a str,
    /// Bytes to point at.
    pub range: Range<usize>,
}

impl<'a> Message<'a> {
    pub(crate) fn error(headline: impl AsRef<str>) -> Self {
        Self {
            level: Level::ERROR,
            headline: clean(headline.as_ref()),
            place: Place::Nowhere,
            statement: None,
            remarks: Vec::new(),
        }
    }

    pub(crate) fn warning(headline: impl AsRef<str>) -> Self {
        Self {
            level: Level::WARNING,
            ..Self::error(headline)
        }
    }

    pub(crate) fn at(mut self, place: Place<'a>) -> Self {
        self.place = place;
        self
    }

    pub(crate) fn remark(mut self, name: &'static str, text: impl AsRef<str>) -> Self {
        self.remarks.push((name, clean(text.as_ref())));
        self
    }

    pub(crate) fn remark_if(self, name: &'static str, text: Option<impl AsRef<str>>) -> Self {
        match text {
            Some(text) => self.remark(name, text),
            None => self,
        }
    }

    /// Returns the message as lines, without a line end at the end.
    pub(crate) fn render(&self, renderer: &Renderer) -> String {
        let mut elements: Vec<Element<'_>> = Vec::new();
        match self.place {
            Place::Nowhere => {}
            Place::File(path) => elements.push(Origin::path(path.display().to_string()).into()),
            Place::At(file, span) => {
                let path = file.path.display().to_string();
                elements.push(snippet(path, &file.text, span.start..span.end));
            }
        }
        if let Some(Excerpt { title, text, range }) = &self.statement {
            elements.push(snippet(clean(title), text, range.clone()));
        }
        for (name, text) in &self.remarks {
            let level = match *name {
                "help" => Level::HELP,
                name => Level::NOTE.with_name(name),
            };
            elements.push(level.message(text).into());
        }
        let group = match elements.is_empty() {
            true => Group::with_title(self.level.clone().primary_title(&self.headline)),
            false => {
                let title = self.level.clone().primary_title(&self.headline);
                title.elements(elements)
            }
        };
        renderer.render(&[group])
    }
}

fn snippet<'a>(path: String, text: &'a str, range: Range<usize>) -> Element<'a> {
    let annotation = AnnotationKind::Primary.span(within(text, range));
    Snippet::source(text)
        .path(path)
        .annotation(annotation)
        .into()
}

/// Moves a range to where there is text, and to where characters begin.
fn within(text: &str, range: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(range.start);
    start..text.ceil_char_boundary(range.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_a_place_is_one_line() {
        let message = Message::error("the output is \x1b[1mfull");
        let text = message.render(&Renderer::plain());
        assert_eq!(text, "error: the output is \u{fffd}[1mfull");
    }

    #[test]
    fn places_outside_of_the_text_are_moved_into_it() {
        let file = SourceFile::new("a.yml", "x: é\n");
        for span in [Span::new(4, 5), Span::new(6, 6), Span::new(90, 99)] {
            let text = Message::error("odd")
                .at(Place::At(&file, span))
                .render(&Renderer::plain());
            assert!(text.starts_with("error: odd\n --> a.yml:"), "{text}");
        }
    }
}
