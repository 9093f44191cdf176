//! Pure: frontend messages as bytes, in the words of the manual. Tests that need a wrong one build it from `message`.

/// A tagged message with the right length.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// StartupMessage of this protocol version.
pub fn startup(version: (u16, u16), parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(version.0.to_be_bytes());
    body.extend(version.1.to_be_bytes());
    for (name, value) in parameters {
        body.extend(zero_ended(name));
        body.extend(zero_ended(value));
    }
    body.push(0);
    untagged(&body)
}

/// SSLRequest (8, 80877103) and its relatives have a length and no tag.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

pub fn ssl_request() -> Vec<u8> {
    untagged(&80877103u32.to_be_bytes())
}

pub fn gssenc_request() -> Vec<u8> {
    untagged(&80877104u32.to_be_bytes())
}

pub fn cancel_request(pid: u32, secret: &[u8]) -> Vec<u8> {
    untagged(&[&80877102u32.to_be_bytes()[..], &pid.to_be_bytes(), secret].concat())
}

pub fn zero_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &zero_ended(sql))
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [zero_ended(name), zero_ended(sql), (types.len() as u16).to_be_bytes().to_vec()].concat();
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    message(b'P', &body)
}

/// All parameters in text format; `None` is NULL. `results`: the format codes of the result columns.
pub fn bind(portal: &str, statement: &str, parameters: &[Option<&[u8]>], results: &[u16]) -> Vec<u8> {
    let mut body = [zero_ended(portal), zero_ended(statement), vec![0, 0]].concat();
    body.extend((parameters.len() as u16).to_be_bytes());
    for parameter in parameters {
        match parameter {
            None => body.extend((-1i32).to_be_bytes()),
            Some(value) => {
                body.extend((value.len() as u32).to_be_bytes());
                body.extend(*value);
            }
        }
    }
    body.extend((results.len() as u16).to_be_bytes());
    results.iter().for_each(|format| body.extend(format.to_be_bytes()));
    message(b'B', &body)
}

/// Describe ('D') and Close ('C') name a statement ('S') or a portal ('P').
pub fn of_named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    message(tag, &[&[kind][..], &zero_ended(name)].concat())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[zero_ended(portal), rows.to_be_bytes().to_vec()].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn copy_data(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', &zero_ended(why))
}

/// FunctionCall with arguments and result in text format.
pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = [oid.to_be_bytes().to_vec(), vec![0, 0], (arguments.len() as u16).to_be_bytes().to_vec()].concat();
    for argument in arguments {
        body.extend((argument.len() as u32).to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}
