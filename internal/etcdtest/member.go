package etcdtest

import (
	"os"
	"testing"

	"github.com/workload-sts/sts/internal/testserver"
)

func (m *Member) args(state string) []string {
	c := m.cluster
	return append([]string{
		"-name", m.Name, "-dir", m.dir, "-client", m.client, "-peer", m.peer, "-advertise-peer", m.Peers.Addr,
		"-cluster", c.initial(), "-token", c.token, "-state", state,
		"-cert", m.cert, "-key", m.key, "-ca", c.CA.File,
	}, c.args...)
}

// URL returns where the member serves clients, past its proxy.
func (m *Member) URL() string { return m.client }

// Kill ends the member at once, as SIGKILL does.
func (m *Member) Kill(t testing.TB) {
	t.Helper()
	if m.run == nil {
		t.Fatalf("member %s does not run", m.Name)
	}
	m.stop()
}

// Begin starts a member that was killed, and does not wait: with others down it
// may not get ready.
func (m *Member) Begin(t testing.TB) {
	t.Helper()
	if m.run != nil {
		t.Fatalf("member %s runs", m.Name)
	}
	m.run = testserver.Begin(t, m.cluster.binary, m.args("existing")...)
}

// Restart starts a member that was killed, and waits until it serves.
func (m *Member) Restart(t testing.TB) {
	t.Helper()
	m.Begin(t)
	m.run.Await(t)
}

// Pause stops the process without ending it.
func (m *Member) Pause(t testing.TB) { t.Helper(); m.run.Pause(t) }

// Resume lets a paused process go on.
func (m *Member) Resume(t testing.TB) { t.Helper(); m.run.Resume(t) }

func (m *Member) stop() {
	if m.run == nil {
		return
	}
	m.log = append(m.log, m.run.Kill()...)
	m.run = nil
}

// Certify gives the member another certificate of the cluster's authority, for
// connections that are made from then on.
func (m *Member) Certify(t testing.TB) {
	t.Helper()
	cert, key := m.cluster.CA.Issue(t, m.Name)
	m.cluster.copy(t, cert, m.cert)
	m.cluster.copy(t, key, m.key)
}

func (c *Cluster) copy(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, data)
}
