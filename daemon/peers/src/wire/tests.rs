//! The codec and the decoders against every kind of bytes.

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;

/// Feeds `bytes` in pieces of `piece` to a response decoder, as a stream would.
fn receive(bytes: &[u8], piece: usize, count: u32, row_bytes: usize) -> Result<Vec<u8>, ResponseError> {
    let mut decoder = ResponseDecoder::new(Expected::Rows { count, row_bytes });
    let mut rows = vec![0; count as usize * row_bytes];
    let mut rest = bytes;
    loop {
        let take = |most: usize| most.min(piece).min(rest.len());
        match decoder.need() {
            Need::End if rest.is_empty() => return Ok(rows),
            Need::End => return Err(WireError::Excess.into()),
            _ if rest.is_empty() => return Err(WireError::Truncated.into()),
            Need::Control(missing) => {
                let n = take(missing);
                decoder.control(&rest[..n])?;
                rest = &rest[n..];
            }
            Need::Payload(range) => {
                let n = take(range.len());
                rows[range.start..range.start + n].copy_from_slice(&rest[..n]);
                decoder.advance(n, &rows)?;
                rest = &rest[n..];
            }
        }
    }
}

fn accept(bytes: &[u8], piece: usize, rows_max: usize) -> Result<(Request, Payload), WireError> {
    let mut decoder = RequestDecoder::new(RequestLimits { rows_max, row_bytes_max: 12 });
    let mut rest = bytes;
    loop {
        match decoder.need() {
            Need::End if rest.is_empty() => return decoder.finish(),
            Need::End => return Err(WireError::Excess),
            _ if rest.is_empty() => return decoder.finish(),
            Need::Control(missing) => {
                let n = missing.min(piece).min(rest.len());
                decoder.control(&rest[..n])?;
                rest = &rest[n..];
            }
            Need::Payload(range) => {
                let n = range.len().min(piece).min(rest.len());
                decoder.payload_mut()[range.start..range.start + n].copy_from_slice(&rest[..n]);
                decoder.advance(n);
                rest = &rest[n..];
            }
        }
    }
}

fn answer(rows: &[u8], row_bytes: usize, rows_per_block: usize) -> Vec<u8> {
    let mut bytes = frame(&ResponseHeader::Rows { count: (rows.len() / row_bytes) as u32 }).unwrap();
    for block in rows.chunks(rows_per_block * row_bytes) {
        let header = BlockHeader::Rows { rows: (block.len() / row_bytes) as u32, checksum: xxh3_64(block) };
        bytes.extend(frame(&header).unwrap());
        bytes.extend(block);
    }
    bytes
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // A frame of the largest length there is, and a string inside a small frame that claims 2^36 bytes.
    let oversized = accept(&[0xff, 0xff, 1, 2, 3], 5, 10).unwrap_err();
    assert_eq!(oversized, WireError::Oversized { bytes: 65_535 });
    let mut body = frame(&ResponseHeader::Failed(RemoteError::Internal("x".to_owned()))).unwrap();
    body.truncate(4);
    body.extend([0xfd, 0, 0, 0, 0, 16, 0, 0, 0]);
    let length = (body.len() - 2) as u16;
    body[..2].copy_from_slice(&length.to_le_bytes());
    assert!(matches!(receive(&body, 99, 1, 1), Err(ResponseError::Wire(WireError::Garbage(_)))));
    // A request that claims more ids than allowed is refused before the ids have a place.
    let rows = RowsRequest { table: 0, row_bytes: 4, count: u32::MAX, class: Class::Demand, request: 7 };
    let update = UpdateRequest { table: 0, row_bytes: 4, count: u32::MAX, writer: Stamp::default(), checksum: 0 };
    for request in [Request::Rows(rows), Request::Update(update)] {
        let refused = accept(&frame(&request).unwrap(), 99, 10).unwrap_err();
        assert_eq!(refused, WireError::TooManyRows { rows: u32::MAX.into(), rows_max: 10 });
    }
    // So is an update with longer rows than there are.
    let update = UpdateRequest { row_bytes: u32::MAX, count: 1, ..update };
    let refused = accept(&frame(&Request::Update(update)).unwrap(), 99, 10).unwrap_err();
    assert_eq!(refused, WireError::RowTooLong { row_bytes: u32::MAX, row_bytes_max: 12 });
}

#[test]
fn a_frame_with_bytes_left_over_is_refused() {
    let request = RowsRequest { table: 0, row_bytes: 4, count: 0, class: Class::Bulk, request: 7 };
    let mut bytes = frame(&Request::Rows(request)).unwrap();
    bytes.push(7);
    bytes[0] += 1;
    assert_eq!(accept(&bytes, 99, 10).unwrap_err(), WireError::Trailing(1));
}

#[test]
fn long_texts_are_cut_to_fit_a_frame() {
    let text = "ä".repeat(3_000);
    let error = RemoteError::Internal(short_text(&text));
    assert!(frame(&BlockHeader::Failed(error)).unwrap().len() <= FRAME_BYTES_MAX);
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..3000), piece in 1usize..64) {
        let _ = accept(&bytes, piece, 256);
        let _ = receive(&bytes, piece, 7, 24);
        for expected in [Expected::Changes { words: 5 }, Expected::Updated] {
            let mut decoder = ResponseDecoder::new(expected);
            while let (Need::Control(missing), Ok(())) = (decoder.need(), decoder.control(&bytes[..0])) {
                let n = missing.min(bytes.len());
                if n == 0 || decoder.control(&bytes[..n]).is_err() { break; }
            }
        }
        let mut hello = HelloDecoder::default();
        let mut rest = &bytes[..];
        while hello.missing() > 0 && !rest.is_empty() {
            let n = hello.missing().min(rest.len()).min(piece);
            if hello.push(&rest[..n]).is_err() { break; }
            rest = &rest[n..];
        }
        if hello.missing() == 0 { let _ = (hello.version(), hello.message::<HelloReply>(), hello.message::<Hello>()); }
    }

    #[test]
    fn requests_survive_the_wire(ids in prop::collection::vec(any::<u64>(), 0..300), piece in 1usize..5000,
                                 table: u16, row_bytes: u32, bulk: bool) {
        let class = if bulk { Class::Bulk } else { Class::Demand };
        let request = Request::Rows(RowsRequest { table, row_bytes, count: ids.len() as u32, class, request: 7 });
        let mut bytes = frame(&request).unwrap();
        ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        let (received, payload) = accept(&bytes, piece, 300).unwrap();
        prop_assert_eq!((received, payload.ids()), (request, &ids[..]));
        bytes.pop();
        prop_assert_eq!(accept(&bytes, piece, 300).unwrap_err(), WireError::Truncated);
    }

    #[test]
    fn updates_survive_the_wire_and_a_flipped_bit_does_not(rows in prop::collection::vec(any::<[u8; 5]>(), 1..60),
                                                           piece in 1usize..300, clock: u64, at: prop::sample::Index) {
        let ids: Vec<u64> = (0..rows.len() as u64).map(|i| i * 1_000_003).collect();
        let payload = [bytemuck::cast_slice(&ids), rows.as_flattened()].concat();
        let writer = Stamp { incarnation: 5, clock };
        let head = UpdateRequest { table: 3, row_bytes: 5, count: rows.len() as u32, writer, checksum: xxh3_64(&payload) };
        let mut bytes = frame(&Request::Update(head)).unwrap();
        let head_bytes = bytes.len();
        bytes.extend(&payload);
        let (received, got) = accept(&bytes, piece, 60).unwrap();
        prop_assert_eq!((received, got.ids(), got.rows()), (Request::Update(head), &ids[..], rows.as_flattened()));
        let at = head_bytes + at.index(payload.len());
        bytes[at] ^= 0x10;
        let damaged = matches!(accept(&bytes, piece, 60), Err(WireError::Checksum { .. }));
        prop_assert!(damaged);
        bytes[at] ^= 0x10;
        bytes.pop();
        prop_assert_eq!(accept(&bytes, piece, 60).unwrap_err(), WireError::Truncated);
    }

    #[test]
    fn answers_survive_the_wire_and_a_flipped_bit_does_not(rows in prop::collection::vec(any::<u8>(), 12..900),
                                                           piece in 1usize..400, block in 1usize..9, at: prop::sample::Index) {
        let rows = &rows[..rows.len() / 12 * 12];
        let mut bytes = answer(rows, 12, block);
        let count = (rows.len() / 12) as u32;
        prop_assert_eq!(&receive(&bytes, piece, count, 12).unwrap()[..], rows);
        let at = at.index(bytes.len());
        bytes[at] ^= 0x10;
        prop_assert!(receive(&bytes, piece, count, 12).is_err());
    }

    #[test]
    fn hellos_carry_their_version(version: u16, node: u16, parts: u16, fingerprint: u64) {
        let hello = Hello { node, parts, fingerprint };
        let bytes = hello_frame(version, &hello).unwrap();
        let mut decoder = HelloDecoder::default();
        let mut rest = &bytes[..];
        while decoder.missing() > 0 {
            let n = decoder.missing().min(3);
            decoder.push(&rest[..n]).unwrap();
            rest = &rest[n..];
        }
        prop_assert_eq!((decoder.version(), decoder.message::<Hello>().unwrap()), (version, hello));
    }
}
