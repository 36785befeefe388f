package e2e

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// keyUpdates writes records of TLS 1.3 that do nothing but replace the key of the
// client. crypto/tls has no way to send them.
type keyUpdates struct {
	secret  []byte
	newHash func() hash.Hash
	keySize int
}

// afterHandshake is for a connection whose client has sent nothing yet; keyLog is
// what crypto/tls has written about it.
func afterHandshake(t *testing.T, suite uint16, keyLog string) *keyUpdates {
	t.Helper()
	k := &keyUpdates{newHash: sha256.New, keySize: 16}
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
	case tls.TLS_AES_256_GCM_SHA384:
		k.newHash, k.keySize = sha512.New384, 32
	default:
		t.Skipf("the machine prefers %s, which this test cannot write", tls.CipherSuiteName(suite))
	}
	for line := range strings.Lines(keyLog) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			if err != nil {
				t.Fatal(err)
			}
			k.secret = secret
		}
	}
	return k
}

// expand is HKDF-Expand-Label without a context [RFC 8446 §7.1].
func (k *keyUpdates) expand(t *testing.T, label string, n int) []byte {
	t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(len("tls13 "+label))), "tls13 "+label...)
	out, err := hkdf.Expand(k.newHash, k.secret, string(append(info, 0)), n)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// next is a record that asks the server to replace its key as well, under the key
// that the one before has begun [RFC 8446 §4.6.3, §5.2].
func (k *keyUpdates) next(t *testing.T) []byte {
	t.Helper()
	block, err := aes.NewCipher(k.expand(t, "key", k.keySize))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte{24, 0, 0, 1, 1, 22} // key_update, update_requested; a handshake record
	header := []byte{23, 3, 3, 0, byte(len(message) + aead.Overhead())}
	record := aead.Seal(header, k.expand(t, "iv", 12), message, header) // sequence number 0
	k.secret = k.expand(t, "traffic upd", k.newHash().Size())
	return record
}

// TestKeyUpdateFlood replaces the key of a connection over and over: the connection
// is closed, and others are served [M-15].
func TestKeyUpdateFlood(t *testing.T) {
	t.Parallel()
	n := startTLS(t)
	for name, address := range map[string]string{"http": strings.TrimPrefix(n.env["STS_HTTP"], "https://"), "grpc": n.env["STS_GRPC"]} {
		t.Run("M-15 "+name, func(t *testing.T) {
			raw, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			var keyLog bytes.Buffer
			client := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, KeyLogWriter: &keyLog})
			if err := client.Handshake(); err != nil {
				t.Fatal(err)
			}
			k := afterHandshake(t, client.ConnectionState().CipherSuite, keyLog.String())
			var flood []byte
			for range 1000 {
				flood = append(flood, k.next(t)...)
			}
			if err := raw.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			go raw.Write(flood) // fails when the server closes
			if _, err := io.Copy(io.Discard, raw); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Fatalf("after %s the connection is still there: %v", time.Since(begin), err)
			}
			if took := time.Since(begin); took > 4*time.Second { // before any time-out of a connection without a request
				t.Errorf("closed after %s", took)
			}
			if r := get(t, n.env["STS_HTTP"]+"/.well-known/openid-configuration"); r.str("issuer") == "" {
				t.Errorf("another client: %s", r.raw)
			}
		})
	}
}
