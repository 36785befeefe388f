package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	bolt "go.etcd.io/bbolt"
)

// boltFormat is the version of the layout below. Format 1 had no sum and was never
// released; format 2 had no moments of expiry.
const (
	boltFormat  = 3
	oldestBolt  = 2
	entryHeader = 16 // in front of a value
)

// Layout, numbers being 8 bytes, big endian: bucket "meta" has the number "format",
// and "state", see boltState. Bucket "kv" has for each key the revision of its
// entry, the moment of expiry in Unix seconds or 0, and the value. Bucket "expiry"
// has for each entry that expires the moment followed by the key, without a value.
var (
	bucketMeta   = []byte("meta")
	bucketKV     = []byte("kv")
	bucketExpiry = []byte("expiry")
	keyFormat    = []byte("format")
	keyState     = []byte("state")
)

// readFormat returns the format of a file, an error if this program cannot read it.
func readFormat(tx *bolt.Tx) (uint64, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil || len(meta.Get(keyFormat)) != 8 || tx.Bucket(bucketKV) == nil {
		return 0, fmt.Errorf("%w or was not written by this program", errDamaged)
	}
	format := binary.BigEndian.Uint64(meta.Get(keyFormat))
	if format < oldestBolt || format > boltFormat {
		return 0, fmt.Errorf("it has format %d, this program reads formats %d to %d; use the program that wrote it or a newer one, or restore it from a backup if it is damaged", format, oldestBolt, boltFormat)
	}
	return format, nil
}

// migrate makes an entry of format 3 of each of format 2.
func migrate(tx *bolt.Tx) error {
	state, _, err := verify(tx)
	if err != nil {
		return err
	}
	kv := tx.Bucket(bucketKV)
	var keys [][]byte // since a bucket that is being walked must not be written
	err = kv.ForEach(func(k, _ []byte) error {
		keys = append(keys, append([]byte{}, k...))
		return nil
	})
	if err != nil {
		return err
	}
	state.sum = 0
	for _, k := range keys {
		old := kv.Get(k)
		stored := encodeEntry(storedRevision(old), Op{Value: old[8:]})
		if err := kv.Put(k, stored); err != nil {
			return err
		}
		state.sum += entrySum(k, stored)
	}
	_, err = tx.CreateBucket(bucketExpiry)
	meta := tx.Bucket(bucketMeta)
	return errors.Join(err, meta.Put(keyFormat, number(boltFormat)), meta.Put(keyState, state.encode()))
}

// verify checks that every entry is as it was written, and the index of those that
// expire. It counts the entries.
func verify(tx *bolt.Tx) (state boltState, entries int, err error) {
	format, err := readFormat(tx)
	if err != nil {
		return state, 0, err
	}
	state, err = readState(tx)
	if err != nil {
		return state, 0, err
	}
	header := entryHeader
	if format == 2 {
		header = 8
	}
	var sum, expiring uint64
	err = tx.Bucket(bucketKV).ForEach(func(k, v []byte) error {
		if len(v) < header {
			return fmt.Errorf("%w: the entry of key %q is too short", errDamaged, k)
		}
		entries++
		sum += entrySum(k, v)
		if format != 2 && storedMoment(v) != 0 {
			expiring += entrySum(v[8:16], k)
		}
		return nil
	})
	if err == nil && sum != state.sum {
		err = fmt.Errorf("%w: entries are missing or not as they were written", errDamaged)
	}
	if err != nil || format == 2 {
		return state, entries, err
	}
	expiry := tx.Bucket(bucketExpiry)
	if expiry == nil {
		return state, entries, fmt.Errorf("%w: it has no index of what expires", errDamaged)
	}
	err = expiry.ForEach(func(k, v []byte) error {
		if len(k) < 9 || len(v) != 0 {
			return fmt.Errorf("%w: its index of what expires cannot be right", errDamaged)
		}
		expiring -= entrySum(k[:8], k[8:])
		return nil
	})
	if err == nil && expiring != 0 {
		err = fmt.Errorf("%w: its index of what expires is not that of its entries", errDamaged)
	}
	return state, entries, err
}

// boltState is the revision of the store, and the sum of its entries, by which
// one that is missing or was not written so is found when the file is opened.
type boltState struct {
	revision int64
	sum      uint64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entrySum is what an entry as it is stored adds to the sum, 0 if there is none.
func entrySum(key, stored []byte) uint64 {
	if stored == nil {
		return 0
	}
	return uint64(crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, stored))
}

// encode returns revision, sum and a checksum of both.
func (s boltState) encode() []byte {
	b := binary.BigEndian.AppendUint64(number(s.revision), s.sum)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func readState(tx *bolt.Tx) (boltState, error) {
	b := tx.Bucket(bucketMeta).Get(keyState)
	if len(b) != 20 || crc32.Checksum(b[:16], castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return boltState{}, fmt.Errorf("%w: its revision is not as it was written", errDamaged)
	}
	return boltState{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:])}, nil
}

// encodeEntry returns what is stored for an operation that puts.
func encodeEntry(revision int64, op Op) []byte {
	b := make([]byte, 0, entryHeader+len(op.Value))
	b = binary.BigEndian.AppendUint64(b, uint64(revision))
	var moment int64
	if !op.Expires.IsZero() {
		moment = max(1, op.Expires.Add(time.Second-1).Unix())
	}
	b = binary.BigEndian.AppendUint64(b, uint64(moment))
	return append(b, op.Value...)
}

// decodeEntry copies: what bbolt hands out is gone with the transaction.
func decodeEntry(key, stored []byte) (Entry, error) {
	if len(stored) < entryHeader {
		return Entry{}, fmt.Errorf("%w: the entry of key %q is too short", errDamaged, key)
	}
	return Entry{
		Key:      string(key),
		Value:    append([]byte{}, stored[entryHeader:]...),
		Revision: storedRevision(stored),
		Expires:  storedExpires(stored),
	}, nil
}

// storedRevision is the revision of a stored entry, 0 if there is none.
func storedRevision(stored []byte) int64 {
	if len(stored) < 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(stored))
}

// storedMoment is when a stored entry expires, in Unix seconds, 0 if it does not.
func storedMoment(stored []byte) int64 {
	if len(stored) < entryHeader {
		return 0
	}
	return int64(binary.BigEndian.Uint64(stored[8:]))
}

func storedExpires(stored []byte) time.Time {
	if moment := storedMoment(stored); moment != 0 {
		return time.Unix(moment, 0).UTC()
	}
	return time.Time{}
}

// index adds a stored entry to the index of what expires.
func index(expiry *bolt.Bucket, key, stored []byte) error {
	if storedMoment(stored) == 0 {
		return nil
	}
	return expiry.Put(append(append([]byte{}, stored[8:16]...), key...), nil)
}

// unindex takes one out of the index.
func unindex(expiry *bolt.Bucket, key, stored []byte) error {
	if storedMoment(stored) == 0 {
		return nil
	}
	return expiry.Delete(append(append([]byte{}, stored[8:16]...), key...))
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
