//! Text as tokens with their places.

use crate::diagnostics::{Diagnostic, Location};

/// A token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A keyword or a name without sigil.
    Word(&'a str),
    /// Something that begins like a number.
    Number(&'a str),
    /// `%name`.
    Value(&'a str),
    /// `@name`.
    Symbol(&'a str),
    /// One of `{ } ( ) [ ] , : = *`.
    Mark(char),
    /// The end of the text.
    End,
}

impl Token<'_> {
    /// The token as a message quotes it.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Word(text) | Self::Number(text) => format!("`{text}`"),
            Self::Value(name) => format!("`%{name}`"),
            Self::Symbol(name) => format!("`@{name}`"),
            Self::Mark(mark) => format!("`{mark}`"),
            Self::End => "the end".to_string(),
        }
    }
}

/// A token and where it begins, counting from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) token: Token<'a>,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Placed<'_> {
    pub(super) fn fail(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(message).at(Location::Text { line: self.line, column: self.column })
    }
}

/// All tokens, [`Token::End`] last.
pub(super) fn lex(text: &str) -> Result<Vec<Placed<'_>>, Diagnostic> {
    let mut tokens = Vec::new();
    let mut lines = 0;
    for (index, line) in text.lines().enumerate() {
        lines = index + 1;
        lex_line(line, lines, &mut tokens)?;
    }
    tokens.push(Placed { token: Token::End, line: lines + 1, column: 1 });
    Ok(tokens)
}

fn lex_line<'a>(line: &'a str, number: usize, tokens: &mut Vec<Placed<'a>>) -> Result<(), Diagnostic> {
    let mut rest = line;
    let mut column = 1;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            break;
        }
        let (token, length) = if first.is_whitespace() {
            (None, first.len_utf8())
        } else {
            let (token, length) = scan(rest, first);
            (Some(token), length)
        };
        if let Some(token) = token {
            let placed = Placed { token: token.unwrap_or(Token::End), line: number, column };
            if token.is_none() {
                return Err(placed.fail(format!("`{first}` begins nothing")));
            }
            tokens.push(placed);
        }
        column += rest[..length].chars().count();
        rest = &rest[length..];
    }
    Ok(())
}

/// The token at the beginning of `text` and its length; `None` where there is none.
fn scan(text: &str, first: char) -> (Option<Token<'_>>, usize) {
    let run = |from: usize, extra: &[u8]| {
        let inside = |byte: &u8| byte.is_ascii_alphanumeric() || extra.contains(byte);
        from + text.as_bytes()[from..].iter().take_while(|byte| inside(byte)).count()
    };
    match first {
        '%' | '@' => {
            let end = run(1, b"_.");
            let name = &text[1..end];
            let token = if first == '%' { Token::Value(name) } else { Token::Symbol(name) };
            ((!name.is_empty()).then_some(token), end)
        }
        '{' | '}' | '(' | ')' | '[' | ']' | ',' | ':' | '=' | '*' => (Some(Token::Mark(first)), 1),
        '-' | '0'..='9' => {
            let end = run(1, b".+-");
            (Some(Token::Number(&text[..end])), end)
        }
        'A'..='Z' | 'a'..='z' | '_' => {
            let end = run(1, b"_.-");
            (Some(Token::Word(&text[..end])), end)
        }
        _ => (None, first.len_utf8()),
    }
}
