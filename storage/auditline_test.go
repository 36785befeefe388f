package storage

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/workload-sts/sts/sts"
	"pgregory.net/rapid"
)

// TestAuditLine: a record is one line whatever is in it, shows as it is, and reads
// back as what it was [L-04].
func TestAuditLine(t *testing.T) {
	hostile := "a\n{\"level\":\"info\"}\r\x00\x1b[31m\x7f\u009b\u2028\u2029\u202e\u2066\u200b\ufeff\U000e0041\\\" <&> é 漢 \U0001f511"
	var r sts.Record
	fillValue(t, reflect.ValueOf(&r).Elem(), nil)
	r.Subject.Sub, r.Reason, r.Issued.KID, r.Client = hostile, hostile, hostile, hostile
	r.Actor.Act = []string{hostile, "\xff\xfe"}
	l := lines.Get().(*line)
	must(t, l.encode(&r))
	oneLine(t, l.Bytes())
	if !bytes.Contains(l.Bytes(), []byte("é 漢 \U0001f511")) {
		t.Errorf("what shows well is escaped: %s", l.Bytes())
	}
	var got sts.Record
	must(t, json.Unmarshal(l.Bytes(), &got))
	r.Actor.Act[1] = "\ufffd\ufffd"
	if !reflect.DeepEqual(got, r) {
		t.Errorf("read back:\n%s\nnot\n%s", asJSON(got), asJSON(r))
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		if err := l.encode(&sts.Record{Event: sts.EventToken, Reason: text}); err != nil {
			t.Fatal(err)
		}
		oneLine(t, l.Bytes())
		var got sts.Record
		if err := json.Unmarshal(l.Bytes(), &got); err != nil || got.Reason != strings.ToValidUTF8(text, "\ufffd") {
			t.Fatalf("%q became %q, %v", text, got.Reason, err)
		}
	})
}

// TestAuditLineIsBounded: what is not escaped for browsers is not six times as long,
// and what is longer than a record can be is not written, so that what a crash
// leaves of one can always be found.
func TestAuditLineIsBounded(t *testing.T) {
	l := lines.Get().(*line)
	must(t, l.encode(&sts.Record{Event: sts.EventToken, Reason: strings.Repeat("<&>", 1000)}))
	if l.Len() > 3200 {
		t.Errorf("%d bytes for 3000", l.Len())
	}
	if err := l.encode(&sts.Record{Event: sts.EventToken, Reason: strings.Repeat("x", sts.MaxRecordSize)}); err == nil {
		t.Errorf("a line of %d bytes", l.Len())
	}
	a, path := newLog(t)
	if err := a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Reason: strings.Repeat("x", sts.MaxRecordSize)}); err == nil {
		t.Error("it was recorded")
	}
	must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "1", Reason: strings.Repeat("x", sts.MaxRecordSize/2)}))
	if got := decisions(t, path); len(got) != 1 {
		t.Errorf("records %v", got)
	}
}

func oneLine(t interface{ Errorf(string, ...any) }, line []byte) {
	text, ok := strings.CutSuffix(string(line), "\n")
	if !ok {
		t.Errorf("no line break at the end of %q", line)
	}
	for _, c := range text {
		if !unicode.IsPrint(c) {
			t.Errorf("%U stands in %q", c, text)
		}
	}
}

// typical is a record of an exchange.
func typical() *sts.Record {
	return &sts.Record{Event: sts.EventToken,
		Time: time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC), Decision: "5y0f3kq9a2m8wz1c", RequestID: "0192f3c4-7a5e-7000-8000-0123456789ab",
		Peer: "10.1.2.3", Grant: sts.TokenExchange, Outcome: "allow", Revision: 4711, Client: "checkout", AuthMethod: sts.SecretBasic,
		Subject:        &sts.RecordParty{Issuer: "github", Sub: "repo:acme/shop:ref:refs/heads/main", JTI: "a6c0dd9e-1c7b-4f0e-9d3f-5e2f8a1b0c4d", Exp: 1795521600},
		AskedAudiences: []string{"https://payments.example.com"}, AskedScopes: []string{"payments.read", "payments.write"},
		Issued: &sts.RecordToken{
			JTI: "Zk3nq0y7T0m8b1l2c3d4eQ", KID: "2026-11-24-a1b2", Type: sts.AccessToken, Sub: "github:repo:acme/shop:ref:refs/heads/main", ClientID: "checkout",
			Audiences: []string{"https://payments.example.com"}, Scopes: []string{"payments.read"}, Act: []string{"checkout"}, Txn: "q1w2e3r4t5y6u7i8o9p0aQ", Exp: 1795521900, Rules: []string{"shop-pays"},
		},
	}
}

func BenchmarkAuditLine(b *testing.B) {
	r := typical()
	l := lines.Get().(*line)
	must(b, l.encode(r))
	b.SetBytes(int64(l.Len()))
	b.ReportAllocs()
	for b.Loop() {
		l.encode(r)
	}
}
