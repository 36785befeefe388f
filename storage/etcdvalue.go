package storage

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// What is stored of an entry in etcd is until when it is kept, in Unix seconds, 0
// for ever, a line feed, and its value. The lease of an entry ends later.

func etcdValue(op Op) string {
	until := int64(0)
	if !op.Expires.IsZero() {
		until = ceil(op.Expires)
	}
	var b strings.Builder
	b.Grow(12 + len(op.Value))
	b.WriteString(strconv.FormatInt(until, 10))
	b.WriteByte('\n')
	b.Write(op.Value)
	return b.String()
}

// entry reads what is stored.
func (e *Etcd) entry(kv *mvccpb.KeyValue) (Entry, error) {
	head, value, ok := bytes.Cut(kv.Value, []byte{'\n'})
	until, err := strconv.ParseInt(string(head), 10, 64)
	if !ok || err != nil || until < 0 {
		return Entry{}, fmt.Errorf("the key %q in etcd holds what this program has not written", kv.Key)
	}
	out := Entry{Key: strings.TrimPrefix(string(kv.Key), e.data), Value: value, Revision: kv.ModRevision}
	if until > 0 {
		out.Expires = time.Unix(until, 0)
	}
	return out, nil
}
