package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/workload-sts/sts/sts"
)

// line is a record as a line of JSON, line break included.
type line struct {
	bytes.Buffer
	json *json.Encoder
	raw  bytes.Buffer // what json writes
}

var lines = sync.Pool{New: func() any {
	l := new(line)
	l.json = json.NewEncoder(&l.raw)
	l.json.SetEscapeHTML(false) // it is not for browsers, and would be six times as long
	return l
}}

// encode replaces the line. What a terminal or an editor would not show as it is,
// control characters, changes of the direction of writing, invisible ones, is
// escaped: names in a record come from tokens that others wrote. A record that is
// larger than records can be is an error.
func (l *line) encode(r *sts.Record) error {
	l.Reset()
	l.raw.Reset()
	if err := l.json.Encode(r); err != nil {
		return err
	}
	// All that is not ASCII is inside of strings, and encoding/json has escaped
	// what JSON demands.
	for b := l.raw.Bytes(); len(b) > 0; {
		plain := 0
		for plain < len(b) && b[plain] < 0x7f {
			plain++
		}
		l.Write(b[:plain])
		if b = b[plain:]; len(b) == 0 {
			break
		}
		c, n := utf8.DecodeRune(b)
		if unicode.IsPrint(c) {
			l.Write(b[:n])
		} else {
			l.escape(c)
		}
		b = b[n:]
	}
	if l.Len() > sts.MaxRecordSize {
		return fmt.Errorf("it has %d bytes, at most %d are written", l.Len(), sts.MaxRecordSize)
	}
	return nil
}

func (l *line) escape(c rune) {
	if high, low := utf16.EncodeRune(c); high != unicode.ReplacementChar {
		l.escape(high)
		c = low
	}
	const digits = "0123456789abcdef"
	l.WriteString(`\u`)
	for shift := 12; shift >= 0; shift -= 4 {
		l.WriteByte(digits[c>>shift&0xf])
	}
}

// indexLine returns where the first line of b ends, which has one.
func indexLine(b []byte) int { return bytes.IndexByte(b, '\n') + 1 }
