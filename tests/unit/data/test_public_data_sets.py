"""Public data sets are read as they are published, with the options that the documentation names.

The files here are made up, in the form of the published ones. Each has two users: one chose b and
then a, the other c.
"""

import json
import re

import pytest

from tests.support import ROOT
from tests.support.custom_data import histories, load


def documented():
    """{file: options}, of the table in the documentation."""
    page = (ROOT / 'docs' / 'your-own-data.md').read_text()
    table = page.partition('### Public data sets\n')[2].partition('\n## ')[0]
    found = {}
    for file, options in re.findall(r'^\| [^|]+ \| `([^`]+)` \| ([^|]+) \|$', table, re.M):
        pairs = re.findall(r'`data\.(\w+)=([^`]+)`', options)
        assert pairs or options == 'none'
        found[file] = dict(pairs)
    return found


def json_lines(*objects):
    return '\n'.join(map(json.dumps, objects))


FILES = {
    'train-item-views.csv': """sessionId;userId;itemId;timeframe;eventdate
1;NA;a;526309;2016-05-09
1;NA;b;2104;2016-05-09
2;7;c;195;2016-05-09""",
    'dataset_TSMC2014_NYC.txt': """\
1\ta\t4bf58dd8\tBridge\t40.7\t-74.0\t-240\tTue Apr 03 18:05:09 +0000 2012
1\tb\t4bf58dd9\tArts & Crafts Store\t40.7\t-74.0\t-240\tTue Apr 03 18:00:09 +0000 2012
2\tc\t4bf58dd8\tBridge\t40.7\t-74.0\t-240\tWed Apr 04 18:00:25 +0000 2012""",
    'goodreads_interactions_poetry.json': json_lines(
        *(
            {
                'user_id': user,
                'book_id': book,
                'review_id': 'r',
                'is_read': False,
                'rating': 0,
                'review_text_incomplete': '',
                'date_added': f'Thu May 0{day} 20:17:17 -0700 2014',
                'date_updated': f'Thu May 0{9 - day} 21:10:10 -0700 2014',
                'read_at': '',
                'started_at': '',
            }
            for user, book, day in (('1', 'a', 3), ('1', 'b', 2), ('2', 'c', 1))
        )
    ),
    'loc-gowalla_totalCheckins.txt': """\
1\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\ta
1\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\tb
2\t2010-10-17T23:42:03Z\t30.2557309927\t-97.7633857727\tc""",
    'transactions_train.csv': """t_dat,customer_id,article_id,price,sales_channel_id
2018-09-20,1,b,0.050830508474576264,2
2018-09-21,1,a,0.030491525423728812,2
2018-09-20,2,c,0.01523728813559322,2""",
    'log_standard_4_08_to_4_21_pure.csv': """\
user_id,video_id,date,hourmin,time_ms,is_click,is_like,long_view,play_time_ms,tab
1,a,20220408,1500,1649399813337,0,0,0,0,1
1,b,20220408,1500,1649399813336,1,0,0,2046,1
2,c,20220409,900,1649466001000,0,0,0,0,1""",
    'userid-timestamp-artid-artname-traid-traname.tsv': """\
1\t2009-05-04T23:08:57Z\ta\tDeep Dish\t\tFlashdance
1\t2009-05-04T13:54:10Z\tb\t"Heroes" & co\t\tComposition 0919
2\t2009-05-04T13:52:04Z\tc\tMinus 8\tt1\tElysian Fields""",
    'behaviors.tsv': """\
1\t1\t11/15/2019 8:55:22 AM\tb\ta-1 c-0
2\t1\t11/15/2019 10:52:13 AM\tb a\tc-0
3\t2\t11/12/2019 4:11:21 PM\tc\ta-0""",
    'otto-recsys-train.jsonl': json_lines(
        {
            'session': 1,
            'events': [
                {'aid': 'a', 'ts': 1661724000378, 'type': 'clicks'},
                {'aid': 'b', 'ts': 1661724000278, 'type': 'carts'},
            ],
        },
        {'session': 2, 'events': [{'aid': 'c', 'ts': 1661724000779, 'type': 'orders'}]},
    ),
    '2019-Oct.csv': """\
event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session
2019-10-01 00:00:01 UTC,purchase,a,2103,,shiseido,35.79,1,72d7
2019-10-01 00:00:00 UTC,purchase,b,2053,appliances.environment.water_heater,aqua,33.20,1,9333
2019-10-01 00:00:02 UTC,view,a,2053,,,35.79,2,72d8
2019-10-01 00:00:04 UTC,purchase,c,2053,,lucente,543.10,2,72d8""",
    'events.csv': """timestamp,visitorid,event,itemid,transactionid
1433221332117,1,view,a,
1433221332016,1,view,b,
1433224214164,2,addtocart,a,
1433224214165,2,view,c,""",
    'steam_reviews.json': '\n'.join(
        repr(
            {
                'username': user,
                'hours': 1.5,
                'products': 105,
                'product_id': game,
                'page_order': 0,
                'date': f'2017-12-{day}',
                'text': 'It\'s "fun"\n\u2665',
                'early_access': False,
                'compensation': None,
            }
        )
        for user, game, day in (('1', 'a', 17), ('1', 'b', 15), ('2', 'c', 16))
    ),
    'UserBehavior.csv': """1,a,2520377,buy,1511544070
1,b,2520771,buy,1511544069
2,a,2520771,pv,1511561733
2,c,149192,buy,1511561734""",
    'yelp_academic_dataset_review.json': json_lines(
        *(
            {
                'review_id': 'r',
                'user_id': user,
                'business_id': business,
                'stars': 3.0,
                'useful': 0,
                'funny': 0,
                'cool': 0,
                'text': 'Good,\n"really".',
                'date': f'2018-07-0{day} 22:09:11',
            }
            for user, business, day in (('1', 'a', 7), ('1', 'b', 3), ('2', 'c', 5))
        )
    ),
    'yoochoose-clicks.dat': """1,2014-04-07T10:54:09.868Z,a,0
1,2014-04-07T10:51:09.277Z,b,0
2,2014-04-07T13:56:37.614Z,c,0""",
}


@pytest.mark.parametrize('name', FILES)
def test_a_file_is_read_with_the_documented_options(tmp_path, name):
    file = tmp_path / name
    file.write_text(FILES[name] + '\n')
    assert histories(load(file, **documented()[name])) == {1: ['b', 'a'], 2: ['c']}


def test_every_documented_file_is_read_here():
    assert set(documented()) == set(FILES)
