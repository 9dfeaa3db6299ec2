//! Turns an encoded message into another one that says the same in a strange way, or something
//! else.

/// A change of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Two neighbouring fields exchanged.
    Swap,
    /// A field written once more.
    Repeat,
    /// A field left out.
    Drop,
    /// A field that nobody knows put in.
    Unknown,
    /// A tag in more bytes than it takes.
    LongTag,
    /// A value or length in more bytes than it takes.
    LongValue,
    /// A zero or empty field put in.
    Zero,
    /// A number replaced.
    Number,
    /// Bytes of no sense put in.
    Noise,
    /// A field of another wire type put in.
    Type,
}

/// One change and where: the numbers of the fields that lead there.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub change: Change,
    pub path: Vec<u64>,
}

/// Random choices, made by the caller.
pub(super) struct Choices<'a>(pub &'a mut dyn Iterator<Item = u32>);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        self.0.next().unwrap_or(0) as usize % limit.max(1)
    }
}

fn varint(mut value: u64, pad: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    for _ in 0..pad {
        *out.last_mut().unwrap() |= 0x80;
        out.push(0);
    }
    out
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A field: its tag and its value, a number or bytes.
#[derive(Clone)]
struct Token {
    tag: u64,
    number: u64,
    bytes: Option<Vec<u8>>,
}

impl Token {
    fn write(&self, pad_tag: usize, pad_value: usize) -> Vec<u8> {
        let mut out = varint(self.tag, pad_tag);
        match &self.bytes {
            Some(bytes) => {
                out.extend(varint(bytes.len() as u64, pad_value));
                out.extend(bytes);
            }
            None => out.extend(varint(self.number, pad_value)),
        }
        out
    }
}

/// The fields of a message; `None` for bytes that do not look like one of varints and bytes.
fn split(bytes: &[u8]) -> Option<Vec<Token>> {
    let (mut at, mut tokens) = (0, Vec::new());
    while at < bytes.len() {
        let tag = read_varint(bytes, &mut at)?;
        let number = read_varint(bytes, &mut at)?;
        let bytes = match tag & 7 {
            0 => None,
            2 => {
                let end = at.checked_add(usize::try_from(number).ok()?)?;
                let body = bytes.get(at..end)?.to_vec();
                at = end;
                Some(body)
            }
            _ => return None,
        };
        tokens.push(Token { tag, number, bytes });
    }
    (!tokens.is_empty()).then_some(tokens)
}

/// A message with one change made somewhere in it.
pub(super) fn mutate(bytes: &[u8], choices: &mut Choices<'_>) -> (Vec<u8>, Made) {
    let mut path = Vec::new();
    let (bytes, change) = descend(bytes, choices, &mut path);
    (bytes, Made { change, path })
}

fn descend(bytes: &[u8], choices: &mut Choices<'_>, path: &mut Vec<u64>) -> (Vec<u8>, Change) {
    let Some(mut tokens) = split(bytes) else {
        let mut noise = bytes.to_vec();
        noise.insert(choices.below(bytes.len() + 1), choices.below(256) as u8);
        return (noise, Change::Noise);
    };
    let at = choices.below(tokens.len());
    let inner = tokens[at].bytes.as_deref().filter(|b| split(b).is_some());
    if let Some(inner) = inner.filter(|_| choices.below(4) != 0) {
        path.push(tokens[at].tag >> 3);
        let (inner, change) = descend(inner, choices, path);
        tokens[at].bytes = Some(inner);
        return (join(&tokens), change);
    }
    path.push(tokens[at].tag >> 3);
    change_at(tokens, at, choices)
}

fn join(tokens: &[Token]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.write(0, 0)).collect()
}

fn change_at(mut tokens: Vec<Token>, at: usize, choices: &mut Choices<'_>) -> (Vec<u8>, Change) {
    let mut fields: Vec<Vec<u8>> = tokens.iter().map(|t| t.write(0, 0)).collect();
    let anywhere = choices.below(fields.len() + 1);
    let number = 1 + choices.below(14) as u64;
    let pad = 1 + choices.below(3);
    let change = match choices.below(10) {
        0 if fields.len() > 1 => {
            let first = at.min(fields.len() - 2);
            fields.swap(first, first + 1);
            Change::Swap
        }
        1 => {
            fields.insert(anywhere, fields[at].clone());
            Change::Repeat
        }
        2 => {
            fields.remove(at);
            Change::Drop
        }
        3 => {
            let unknown: [&[u8]; 5] = [
                &[0x78, 0x05],
                &[0x7a, 0x02, 1, 2],
                &[0x7d, 1, 2, 3, 4],
                &[0x79, 1, 2, 3, 4, 5, 6, 7, 8],
                &[0x9b, 0x06, 0x08, 0x01, 0x9c, 0x06],
            ];
            fields.insert(anywhere, unknown[choices.below(5)].to_vec());
            Change::Unknown
        }
        4 => {
            fields[at] = tokens[at].write(pad, 0);
            Change::LongTag
        }
        5 => {
            fields[at] = tokens[at].write(0, pad);
            Change::LongValue
        }
        6 => {
            let wire = [0, 2][choices.below(2)];
            fields.insert(anywhere, [varint(number << 3 | wire, 0), vec![0]].concat());
            Change::Zero
        }
        7 if tokens[at].bytes.is_none() => {
            let value = [1, u64::MAX, 1 << 31, u64::from(u32::MAX), 1 << 40, 0, 3];
            tokens[at].number = value[choices.below(7)];
            fields[at] = tokens[at].write(0, 0);
            Change::Number
        }
        8 => {
            let wire = [1, 5, 3, 4][choices.below(4)];
            let tag = varint(tokens[at].tag & !7 | wire, 0);
            fields.insert(anywhere, [tag, vec![0; choices.below(9)]].concat());
            Change::Type
        }
        _ => {
            fields.insert(anywhere, vec![choices.below(256) as u8]);
            Change::Noise
        }
    };
    (fields.concat(), change)
}
