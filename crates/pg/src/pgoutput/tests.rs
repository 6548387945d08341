//! Does the decoder read what pgoutput writes, and survive everything else?

use proptest::prelude::*;

use super::encode::encode;
use super::*;

fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn content() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        content().prop_map(Value::Text),
        content().prop_map(Value::Binary),
    ];
    prop::collection::vec(value, 0..6)
}

fn old() -> impl Strategy<Value = Old> {
    prop_oneof![tuple().prop_map(Old::Key), tuple().prop_map(Old::Full)]
}

fn commit() -> impl Strategy<Value = Commit> {
    any::<(u64, u64, i64)>().prop_map(|(commit_lsn, end_lsn, commit_time)| Commit {
        commit_lsn,
        end_lsn,
        commit_time,
    })
}

fn prepare() -> impl Strategy<Value = Prepare> {
    (any::<(u64, u64, i64, u32)>(), text()).prop_map(
        |((prepare_lsn, end_lsn, prepare_time, xid), gid)| Prepare {
            prepare_lsn,
            end_lsn,
            prepare_time,
            xid,
            gid,
        },
    )
}

fn relation() -> impl Strategy<Value = Relation> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column =
        (any::<(bool, u32, i32)>(), text()).prop_map(|((key, type_oid, type_modifier), name)| {
            Column { key, name, type_oid, type_modifier }
        });
    (any::<u32>(), text(), text(), identity, prop::collection::vec(column, 0..6)).prop_map(
        |(id, namespace, name, identity, columns)| Relation {
            id,
            namespace,
            name,
            identity,
            columns,
        },
    )
}

/// Messages that carry a transaction id inside a stream block.
fn change() -> impl Strategy<Value = Message> {
    prop_oneof![
        relation().prop_map(Message::Relation),
        (any::<u32>(), text(), text()).prop_map(|(oid, namespace, name)| Message::Type {
            oid,
            namespace,
            name
        }),
        (any::<u32>(), tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop_oneof![Just(Old::None), old()], tuple())
            .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
        (any::<u32>(), old()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (prop::collection::vec(any::<u32>(), 0..5), any::<(bool, bool)>()).prop_map(
            |(relations, (cascade, restart_identity))| {
                Message::Truncate { relations, cascade, restart_identity }
            }
        ),
        (any::<(bool, u64)>(), text(), content()).prop_map(
            |((transactional, lsn), prefix, content)| {
                Message::Logical { transactional, lsn, prefix, content }
            }
        ),
    ]
}

/// Messages that stand outside stream blocks only, except those that open and close one.
fn outer() -> impl Strategy<Value = Message> {
    prop_oneof![
        any::<(u64, i64, u32)>().prop_map(|(final_lsn, commit_time, xid)| Message::Begin(Begin {
            final_lsn,
            commit_time,
            xid
        })),
        commit().prop_map(Message::Commit),
        (any::<u64>(), text()).prop_map(|(lsn, name)| Message::Origin { lsn, name }),
        (any::<u32>(), commit()).prop_map(|(xid, commit)| Message::StreamCommit { xid, commit }),
        any::<(u32, u32, Option<(u64, i64)>)>().prop_map(|(xid, subxid, at)| {
            Message::StreamAbort(StreamAbort { xid, subxid, at })
        }),
        prepare().prop_map(Message::BeginPrepare),
        prepare().prop_map(Message::Prepare),
        prepare().prop_map(Message::StreamPrepare),
        (commit(), any::<u32>(), text()).prop_map(|(commit, xid, gid)| Message::CommitPrepared {
            commit,
            xid,
            gid
        }),
        (any::<(u64, u64, i64, i64, u32)>(), text()).prop_map(
            |((prepare_end_lsn, rollback_end_lsn, prepare_time, rollback_time, xid), gid)| {
                Message::RollbackPrepared(RollbackPrepared {
                    prepare_end_lsn,
                    rollback_end_lsn,
                    prepare_time,
                    rollback_time,
                    xid,
                    gid,
                })
            }
        ),
    ]
}

fn inside_stream() -> Decoder {
    Decoder { in_stream: true }
}

proptest! {
    #[test]
    fn every_message_is_read_as_it_was_sent(message in prop_oneof![change(), outer()]) {
        let decoded = Decoder::new().decode(encode(&message, None)).unwrap();
        prop_assert_eq!(decoded, Decoded { stream_xid: None, message });
    }

    #[test]
    fn a_change_inside_a_stream_block_names_its_transaction(message in change(), xid: u32) {
        let decoded = inside_stream().decode(encode(&message, Some(xid))).unwrap();
        prop_assert_eq!(decoded, Decoded { stream_xid: Some(xid), message });
    }

    #[test]
    fn a_message_cut_short_is_refused(
        message in prop_oneof![change(), outer()],
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = encode(&message, None);
        let cut = at.index(bytes.len());
        // Without its last two fields a Stream Abort is whole: the older form.
        let whole = matches!(message, Message::StreamAbort(_)) && cut == 9;
        prop_assert_eq!(Decoder::new().decode(bytes.slice(..cut)).is_ok(), whole);
    }

    #[test]
    fn any_bytes_give_a_message_or_an_error(
        tag in prop_oneof![prop::sample::select(&b"BCORYIUDTMSEcAbPKrp"[..]), any::<u8>()],
        rest in prop::collection::vec(any::<u8>(), 0..200),
        in_stream: bool,
    ) {
        let _ = Decoder { in_stream }.decode(Bytes::from([vec![tag], rest].concat()));
    }

    #[test]
    fn a_damaged_message_gives_a_message_or_an_error(
        message in prop_oneof![change(), outer()],
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut bytes = encode(&message, None).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Decoder::new().decode(bytes.into());
    }
}

#[test]
fn a_stream_block_opens_and_closes() {
    let mut decoder = Decoder::new();
    let insert = Message::Insert { relation: 7, new: vec![Value::Null] };
    let start = Message::StreamStart { xid: 9, first: true };
    let origin = Message::Origin { lsn: 5, name: "us".into() };
    decoder.decode(encode(&start, None)).unwrap();
    assert_eq!(decoder.decode(encode(&origin, None)).unwrap().stream_xid, None);
    assert_eq!(decoder.decode(encode(&insert, Some(10))).unwrap().stream_xid, Some(10));
    decoder.decode(encode(&Message::StreamStop, None)).unwrap();
    assert_eq!(decoder.decode(encode(&insert, None)).unwrap().stream_xid, None);
}

#[test]
fn a_message_on_the_wrong_side_of_a_stream_block_is_refused() {
    let start = encode(&Message::StreamStart { xid: 9, first: false }, None);
    let stop = encode(&Message::StreamStop, None);
    assert_eq!(inside_stream().decode(start), Err(PgoutputError::InsideStream(b'S')));
    assert_eq!(Decoder::new().decode(stop), Err(PgoutputError::OutsideStream(b'E')));
}

#[test]
fn a_hostile_count_is_refused_before_memory_is_spent() {
    let truncate = Bytes::from_static(b"T\xff\xff\xff\xff\0\0\0\0\x01");
    let short = PgoutputError::Short { tag: b'T', field: "relations" };
    assert_eq!(Decoder::new().decode(truncate), Err(short));
    let insert = Bytes::from_static(b"I\0\0\0\x01N\xff\xffn");
    let short = PgoutputError::Short { tag: b'I', field: "row" };
    assert_eq!(Decoder::new().decode(insert), Err(short));
    let value = Bytes::from_static(b"I\0\0\0\x01N\0\x01t\x7f\xff\xff\xffx");
    let short = PgoutputError::Short { tag: b'I', field: "text value" };
    assert_eq!(Decoder::new().decode(value), Err(short));
}

#[test]
fn an_error_names_the_message_and_the_field() {
    let error = Decoder::new().decode(Bytes::from_static(b"R\0\0\0\x01public\0t\0x\0\0"));
    assert_eq!(error.unwrap_err().to_string(), "pgoutput message 'R' has 'x' as replica identity");
    let error = Decoder::new().decode(Bytes::from_static(b"E!"));
    assert_eq!(error.unwrap_err(), PgoutputError::OutsideStream(b'E'));
    let error = Decoder::new().decode(Bytes::from_static(b"S\0\0\0\x01\x01!"));
    let trailing = "pgoutput message 'S' has 1 bytes after its end";
    assert_eq!(error.unwrap_err().to_string(), trailing);
}
