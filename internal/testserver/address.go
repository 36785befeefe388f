package testserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
)

// FreeAddress returns an address on 127.0.0.1 for a server that must be told where
// to listen, and find the same place again after a restart. It belongs to the test
// until its end, also while nobody listens there.
//
// Ports that the kernel gives to outgoing connections are left alone. To other
// tests, in this process or another, the UDP port of the same number says that it
// is taken: nobody listens on TCP here, because a process that is forked in the same
// moment would hold the listener for a while.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(22_000))
		mark, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		if conn, err := net.Dial("tcp", address); errors.Is(err, syscall.ECONNREFUSED) {
			t.Cleanup(func() { mark.Close() })
			return address
		} else if err == nil {
			conn.Close()
		}
		mark.Close()
	}
	t.Fatal("no port is free")
	return ""
}
