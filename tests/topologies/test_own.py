import networkx as nx
import pytest

from swarm.errors import UsageError
from topologies import own
from topologies.families import ring
from topologies.graph import Topology
from topologies.own import from_adjacency_csv, from_edge_list, from_graphml, from_networkx

GRAPHML = "<graphml xmlns='http://graphml.graphdrawing.org/xmlns'>{}</graphml>"


def test_an_edge_list_of_names() -> None:
    text = "# hospitals\n\nberlin, dresden\ndresden\taachen  0.5\naachen berlin {}  # the ring is closed\r\nberlin dresden\n"
    assert from_edge_list(text) == (("berlin", "dresden", "aachen"), ring(3))


def test_an_edge_list_of_indices_keeps_them() -> None:
    assert from_edge_list("2 0\n1 2") == (("0", "1", "2"), Topology(n=3, edges=((0, 2), (1, 2))))
    names, topology = from_edge_list("7 clinic\n")  # one name that is no number, and they are all names
    assert (names, topology.n) == (("7", "clinic"), 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a b\nc\n", "line 2: 'c' stands alone"),
        ("a b\n\n# note\nb b", "line 4: 'b' is linked to itself"),
        ("", "it has no link"),
        ("# only a comment", "it has no link"),
        ("a b\nc d\nd e", "'c' and 2 more cannot be reached from 'a'"),
        ("0 1\n3 1", "'2' cannot be reached from '0'"),
        ("a b\na " + "x" * 201, "line 2: a name is too long"),
        ("a b\x00c", "line 1: a name is too long or cannot be printed"),
    ],
)
def test_an_edge_list_that_is_wrong_names_the_line(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        from_edge_list(text)
    assert caught.value.hint


def test_an_index_beyond_all_bounds_is_not_allocated() -> None:
    names, topology = from_edge_list("0 99999999999999999999\n")
    assert (names, topology.n) == (("0", "99999999999999999999"), 2)
    many = "\n".join(f"a{i} a{i + 1}" for i in range(4096))
    with pytest.raises(UsageError, match="4097 members, more than 4096"):
        from_edge_list(many)


def test_a_text_beyond_all_bounds_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "TEXT_CHARACTERS_MAX", 10)
    for read in (from_edge_list, from_adjacency_csv, from_graphml):
        with pytest.raises(UsageError, match="11 characters are more than 10"):
            read("x" * 11)


PATH = Topology(n=3, edges=((0, 1), (1, 2)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0,1,0\n1,0,0.5\n0,2,0\n", ("0", "1", "2")),
        ("0.5,1,0\r\n1,0,1\r\n0,1,0.5\r\n", ("0", "1", "2")),  # the diagonal of a mixing matrix is not a link
        ("a,b,c\n0,1,0\n1,0,1\n0,1,0\n", ("a", "b", "c")),
        (",a,b,c\na,0,1,0\nb,1,0,1\nc,0,1,0\n", ("a", "b", "c")),
        ("site,a,b,c\na,0,1,0\nb,1,0,1\nc,,1,\n", ("a", "b", "c")),
        ("\n,10,20,30\n10,0,1,0\n20,1,0,1\n30,0,1,0\n", ("10", "20", "30")),  # not a table of weights 10, 20, 30
    ],
)
def test_an_adjacency_table_with_and_without_names(text: str, names: tuple[str, ...]) -> None:
    assert from_adjacency_csv(text) == (names, PATH)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it is empty"),
        ("0,1\n0,0", "line 2: 1 to 0 is 0, but line 1 has 1 for the way back"),
        ("0,1\n1", "line 2: it has 1 numbers for 2 members"),
        ("0,1", "line 1: there are 1 rows for 2 columns"),
        ("0,1\n1,x", "line 2: 'x' is not a number"),
        ("0,1\n1,nan", "line 2: 'nan' is not a number"),
        ("a,a\n0,1\n1,0", "line 1: the name 'a' stands twice"),
        (",a,b\nb,0,1\na,1,0", "line 2: the row of 'b' stands where the column of 'a' is"),
        ("a,b\n0,0\n0,0", "'b' cannot be reached from 'a'"),
        ("a,b,c\n", "there are 0 rows for 3 columns"),
    ],
)
def test_an_adjacency_table_that_is_wrong_names_the_line(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        from_adjacency_csv(text)
    assert caught.value.hint


def test_graphml_goes_there_and_back() -> None:
    karate = nx.karate_club_graph()
    names, topology = from_graphml("\n".join(nx.generate_graphml(karate)))
    assert names == tuple(map(str, range(34)))
    assert topology == Topology.from_networkx(karate)
    labelled = nx.Graph([("n0", "n1"), ("n1", "n2")])
    nx.set_node_attributes(labelled, {"n0": "Köln", "n1": "Bonn", "n2": "Aachen"}, "label")
    assert from_graphml("\n".join(nx.generate_graphml(labelled))) == (("Köln", "Bonn", "Aachen"), PATH)


BOMB = """<?xml version="1.0"?>
<!doctype lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>
<graphml>&lol2;</graphml>"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!doctype graphml>\n<graphml/>", "line 1: it declares"),
        (BOMB, "line 2: it declares a document type or entities"),
        ("\n\n<!ENTITY x SYSTEM 'file:///etc/passwd'>", "line 3: it declares"),
        ("<graphml>\n<graph", "couldn't read the GraphML: line 2: unclosed token"),
        ("hello", "couldn't read the GraphML: line 1"),
        ("", "couldn't read the GraphML: line 1"),
        ("<html/>", "couldn't read the GraphML"),
        (GRAPHML.format("<graph edgedefault='undirected'/>"), "it has 0 members"),
        (
            GRAPHML.format(
                "<graph edgedefault='directed'><node id='a'/><node id='b'/><edge source='a' target='b'/></graph>"
            ),
            "'a' is linked to 'b', but not back",
        ),
        (
            GRAPHML.format("<graph edgedefault='undirected'><node id='a'/><edge source='a' target='a'/></graph>"),
            "'a' is linked to itself",
        ),
        (GRAPHML.format("<graph edgedefault='undirected'><edge source='a'/></graph>"), "edge number 1 has no target"),
        (GRAPHML.format("<graph edgedefault='undirected'><node id='a'/><node/></graph>"), "node number 2 has no id"),
        (
            GRAPHML.format("<graph edgedefault='undirected'><node id='a'><data key='k'>1</data></node></graph>"),
            "GraphML",
        ),
    ],
)
def test_graphml_that_is_wrong_or_dangerous_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        from_graphml(text)
    assert caught.value.hint


def test_networkx_graphs_of_any_kind() -> None:
    assert from_networkx(nx.Graph([(2, 1), (1, 0)])) == (("0", "1", "2"), PATH)
    assert from_networkx(nx.path_graph(["x", "y", "z"])) == (("x", "y", "z"), PATH)
    assert from_networkx(nx.MultiGraph([("x", "y"), ("x", "y"), ("y", "z")])) == (("x", "y", "z"), PATH)
    assert from_networkx(nx.DiGraph([(0, 1), (1, 0), (1, 2), (2, 1)])) == (("0", "1", "2"), PATH)
    assert from_networkx(nx.Graph([(1, "1")]))[0] == ("1", "'1'")  # two nodes that print alike
    with pytest.raises(UsageError, match="cannot be reached"):
        from_networkx(nx.Graph([(0, 1), (2, 3)]))
