package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/internal/testserver"
)

// etcdStorage is the configuration of a store in a cluster.
func etcdStorage(c *etcdtest.Cluster) string {
	return fmt.Sprintf("{etcd: {endpoints: [%s], ca_file: %s, cert_file: %s, key_file: %s}}", strings.Join(c.Endpoints(), ", "), c.CA.File, c.CertFile, c.KeyFile)
}

// startNodes starts servers of one issuer on one etcd and one real Vault, with the
// client app.
func startNodes(t *testing.T, c *etcdtest.Cluster, n int, more string) []*vaultNode {
	t.Helper()
	v, issuer := newVault(t), testserver.FreeAddress(t)
	nodes := make([]*vaultNode, n)
	for i := range nodes {
		nodes[i] = v.start(t, issuer, etcdStorage(c), vaultSet, more)
	}
	nodes[0].addClient(t)
	for _, n := range nodes[1:] {
		n.secret = nodes[0].secret
		n.awaitToken(t)
	}
	return nodes
}

// awaitToken waits until a server issues, and returns a token.
func (n *vaultNode) awaitToken(t *testing.T) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r := n.ask(t)
		if token := r.str("access_token"); token != "" {
			return token
		}
		if time.Now().After(deadline) {
			t.Fatalf("no token: %d %s\n%s", r.status, r.raw, n.log)
		}
	}
}

// at asks all nodes for something at the same moment.
func at(nodes []*vaultNode, f func(*vaultNode)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for _, n := range nodes {
		wg.Go(func() { <-start; f(n) })
	}
	close(start)
	wg.Wait()
}

// TestNodes runs three servers on one etcd and one real Vault. Where they race,
// exactly one wins; and through rotations and an emergency all sign with the same
// key at any time, and publish what the others sign with.
func TestNodes(t *testing.T) {
	parent := t
	nodes := startNodes(t, etcdtest.Start(t, 1), 3, quickRotation)
	t.Run("A-14 one assertion", func(t *testing.T) { raceAssertions(t, nodes) })
	t.Run("one assertion after a restart", func(t *testing.T) {
		used := useAssertion(t, nodes[0])
		nodes[0].restart(parent)
		used(nodes)
	})
	t.Run("one revision", func(t *testing.T) { raceRevisions(t, nodes) })
	t.Run("one rotation", func(t *testing.T) { raceRotations(t, nodes) })
	t.Run("one key", func(t *testing.T) { sameKeys(t, nodes) })
}

func raceAssertions(t *testing.T, nodes []*vaultNode) {
	s := newSigner(t, "racer", jose.ES256)
	nodes[0].apply(t, s.yaml(t)+"kind: Audience\nname: demo\nscopes: [demo.read]\nmax_ttl: 10s\n")
	post := func(n *vaultNode, assertion string) reply {
		return n.post(t, assertionForm(assertion, "jwt-bearer"), nil)
	}
	for _, n := range nodes { // until all know the client
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			r := post(n, s.assertion(t, n.node, nil))
			if r.status == 200 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d %s", r.status, r.raw)
			}
		}
	}
	for range 20 {
		assertion := s.assertion(t, nodes[0].node, nil)
		var won, lost atomic.Int64
		at(append(nodes, nodes...), func(n *vaultNode) {
			switch r := post(n, assertion); {
			case r.status == 200:
				won.Add(1)
			case r.status == 401 && strings.Contains(r.str("error_description"), "was used before"):
				lost.Add(1)
			default:
				t.Errorf("%d %s", r.status, r.raw)
			}
		})
		if won.Load() != 1 || lost.Load() != 5 {
			t.Fatalf("one assertion was accepted %d times and refused %d times", won.Load(), lost.Load())
		}
	}
}

// useAssertion uses an assertion, and returns what tries it at other nodes: nobody
// remembers it but the store.
func useAssertion(t *testing.T, n *vaultNode) func([]*vaultNode) {
	t.Helper()
	s := newSigner(t, "once", jose.ES256)
	n.apply(t, s.yaml(t))
	form := assertionForm(s.assertion(t, n.node, nil), "jwt-bearer")
	if r := n.post(t, form, nil); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	return func(nodes []*vaultNode) {
		t.Helper()
		for _, n := range nodes {
			if r := n.post(t, form, nil); r.status != 401 || !strings.Contains(r.raw, "was used before") {
				t.Errorf("an assertion that was used: %d %s", r.status, r.raw)
			}
		}
	}
}

func raceRevisions(t *testing.T, nodes []*vaultNode) {
	for round := range 3 {
		revision := nodes[round].revision(t)
		var won, lost atomic.Int64
		at(nodes, func(n *vaultNode) {
			yaml := fmt.Sprintf("kind: Audience\nname: raced\nscopes: [of.%d]\n", n.cmd.Process.Pid)
			_, stderr, code := n.stsctl(t, yaml, "apply", "-f", "-", "--expected-revision", fmt.Sprint(revision))
			switch {
			case code == 0:
				won.Add(1)
			case strings.Contains(stderr, "revision"):
				lost.Add(1)
			default:
				t.Errorf("apply: %d %s", code, stderr)
			}
		})
		if won.Load() != 1 || lost.Load() != 2 {
			t.Fatalf("at revision %d %d changes were made and %d refused", revision, won.Load(), lost.Load())
		}
	}
}

// revision returns the revision of the resources, when all that was done before is
// known to the node.
func (n *vaultNode) revision(t *testing.T) int64 {
	t.Helper()
	out, stderr, code := n.stsctl(t, "kind: Audience\nname: raced\nscopes: [none]\n", "apply", "-f", "-", "-o", "json")
	var said struct {
		Revision json.Number `json:"revision"`
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || code != 0 {
		t.Fatalf("apply: %d %v %s%s", code, err, out, stderr)
	}
	revision, err := said.Revision.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// raceRotations: all ask for a rotation at once, and one new key is made.
func raceRotations(t *testing.T, nodes []*vaultNode) {
	for range 2 {
		for deadline := time.Now().Add(20 * time.Second); nodes[0].keys(t)["next"].KID != ""; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the next key never signs")
			}
		}
		before := versions(t, nodes[0])
		at(nodes, func(n *vaultNode) {
			if _, stderr, code := n.stsctl(t, "", "keys", "rotate"); code != 0 {
				t.Errorf("rotate: %s", stderr)
			}
		})
		if after := versions(t, nodes[0]); after != before+1 {
			t.Fatalf("three rotations at once have made %d keys", after-before)
		}
	}
}

// versions is how many keys were made in Vault.
func versions(t *testing.T, n *vaultNode) int {
	t.Helper()
	data := n.vault.Do(t, http.MethodGet, "transit/keys/sts", nil)["data"].(map[string]any)
	return len(data["keys"].(map[string]any))
}

func sameKeys(t *testing.T, nodes []*vaultNode) {
	kids := map[string]bool{}
	asked := 0
	for deadline := time.Now().Add(time.Minute); len(kids) < 5; time.Sleep(10 * time.Millisecond) {
		var tokens []string
		for _, n := range append(nodes, nodes[0]) {
			tokens = append(tokens, n.awaitToken(t))
		}
		asked++
		first, last := kidOf(t, tokens[0]), kidOf(t, tokens[len(nodes)])
		for i, token := range tokens {
			kid := kidOf(t, token)
			if first == last && kid != first {
				t.Fatalf("node %d signs with %s, node 0 before and after with %s", i, kid, first)
			}
			for j, n := range nodes {
				if set := get(t, n.env["STS_HTTP"]+"/.well-known/jwks.json"); !strings.Contains(set.raw, kid) {
					t.Fatalf("node %d does not publish the key of node %d", j, i)
				}
			}
			if !kids[kid] {
				kids[kid] = true
				if len(kids) == 3 {
					nodes[1].revoke(t, kid)
					for _, n := range nodes {
						n.awaitGone(t, kid)
					}
					break // the other tokens of this round are of the revoked key
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d keys in a minute", len(kids))
		}
	}
	t.Logf("%d keys, asked %d times", len(kids), asked)
}

// awaitGone waits until a server neither publishes a key nor signs with it.
func (n *vaultNode) awaitGone(t *testing.T, kid string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		published := strings.Contains(get(t, n.env["STS_HTTP"]+"/.well-known/jwks.json").raw, kid)
		if !published && kidOf(t, n.awaitToken(t)) != kid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a revoked key is still in use")
		}
	}
}
